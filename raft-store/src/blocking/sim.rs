//! Blocking work in the simulator. A simulated machine says how long it takes: some time passes before the work is done, and
//! some until its caller hears of it; meanwhile others run, and the machine may stop.

use std::{cell::RefCell, collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use madsim::task::NodeId;

use super::Work;

/// A machine that takes its time.
pub trait Machine: Send + Sync {
    /// Work begins. Nothing, if it takes no time.
    fn begin(&self, work: Work) -> Option<Times>;
    /// It was done; its caller has yet to hear of it.
    fn done(&self, number: u64);
    /// It is over, or given up because the process died.
    fn over(&self, number: u64);
    /// It is done now.
    fn before(&self, work: Work);
    /// It was done. False when the power has failed meanwhile: then nothing else happens in this process.
    fn after(&self, work: Work) -> bool;
    /// Work that took time is about to be heard of. False when the power fails just before.
    fn end(&self, work: Work) -> bool;
}

/// How long a piece of work takes.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Which piece it is.
    pub number: u64,
    /// Until it is done.
    pub before: Duration,
    /// From then until its caller hears of it.
    pub after: Duration,
}

thread_local! {
    static MACHINES: RefCell<BTreeMap<NodeId, Arc<dyn Machine>>> = const { RefCell::new(BTreeMap::new()) };
}

/// From now on `machine` decides for what runs on this node of the simulation. Without one work takes no time.
pub fn set_machine(node: NodeId, machine: Arc<dyn Machine>) {
    MACHINES.with_borrow_mut(|machines| machines.insert(node, machine));
}

/// Tells the machine that its work is over, also when the process dies.
struct UnderWay {
    machine: Arc<dyn Machine>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.machine.over(self.number);
    }
}

pub(super) async fn run<T: Send + 'static>(work: Work, call: impl FnOnce() -> T + Send + 'static) -> T {
    let here = madsim::plugin::node();
    let Some(machine) = MACHINES.with_borrow(|machines| machines.get(&here).cloned()) else {
        return call();
    };
    let Some(times) = machine.begin(work) else {
        return do_it(&*machine, work, call).await;
    };
    // A task of its own: no caller takes the work back.
    let task = madsim::task::spawn(async move {
        let under_way = UnderWay {
            machine,
            number: times.number,
        };
        madsim::time::sleep(times.before).await;
        let result = do_it(&*under_way.machine, work, call).await;
        under_way.machine.done(times.number);
        madsim::time::sleep(times.after).await;
        if !under_way.machine.end(work) {
            return pending().await;
        }
        result
    });
    match task.await {
        Ok(result) => result,
        // The process is dead.
        Err(_) => pending().await,
    }
}

async fn do_it<T>(machine: &dyn Machine, work: Work, call: impl FnOnce() -> T) -> T {
    machine.before(work);
    let result = call();
    if !machine.after(work) {
        drop(result);
        return pending().await;
    }
    result
}
