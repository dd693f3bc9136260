//! Drawn worlds, changed: what would make one simpler, for the shrinker, and what a search needs in every one.

use std::time::Duration;

use super::{Fault, Habits, Plan};
use crate::machine::Slowness;

impl Plan {
    /// Makes the world simpler in one respect: `messages=20`, `without=Pause`. The shrinker's words.
    ///
    /// # Errors
    /// Says what cannot be changed in this way.
    pub fn change(&mut self, change: &str) -> Result<(), String> {
        let (what, value) = change
            .split_once('=')
            .ok_or_else(|| format!("{change}: want NAME=VALUE"))?;
        let number = || {
            value
                .parse::<u32>()
                .map_err(|_| format!("{change}: want a number"))
        };
        match what {
            "without" | "only" => {
                let fault = Fault::ALL.iter().find(|fault| format!("{fault:?}") == value);
                let fault = *fault.ok_or_else(|| format!("{change}: no such fault"))?;
                if what == "without" {
                    self.faults.remove(&fault);
                } else {
                    // To look at many worlds with one kind of fault: a node too few and it would mean nothing.
                    self.nodes = self.nodes.max(fault.nodes_needed());
                    self.faults = [(fault, 1)].into();
                }
            }
            "messages" => self.messages = number()?,
            "producers" => self.producers = number()?,
            "groups" => self.groups = number()?,
            "topics" => self.topics = number()?,
            "queues" => self.queues = number()?,
            "shards" => self.shards = number()?,
            "at_once" => self.at_once = number()?,
            "faults_for" => self.faults_for = Duration::from_secs(number()?.into()),
            "skew_ms" => self.skew_ms = number()?.into(),
            "consumers" => self.consumers = number()?,
            "deaths" if value == "none" => self.deaths = false,
            "work" if value == "none" => (self.work_ms, self.consumers_from) = (0, Duration::ZERO),
            "batches" if value == "none" => (self.batches, self.quits) = (false, false),
            "operator" if value == "none" => self.operator = false,
            "wanted" if value == "everything" => self.wanted = None,
            "replays" if value == "none" => self.replays = false,
            "pauses" if value == "none" => self.pauses = false,
            "pulls" if value == "none" => self.pulls = false,
            // Not simpler: to have an operator in every world of a search.
            "operator" if value == "all" => self.operator = true,
            "habits" if value == "none" => self.habits = Habits::NONE,
            "retention" if value == "none" => self.limits.keep(),
            // Not simpler: to have snapshots, in many parts, in every world of a search.
            "retention" if value == "small" => self.segment_bytes = self.limits.forget_soon(),
            "loss" if value == "none" => self.loss = 0.0,
            "outages" if value == "none" => self.slowness.outages = 0,
            "slowness" if value == "none" => self.slowness = Slowness::NONE,
            "push" if value == "none" => self.push = false,
            // Not simpler: to have push consumers in every world of a search.
            "push" if value == "all" => self.push = true,
            "world" if value == "calm" => *self = Plan::calm(),
            _ => return Err(format!("{change}: nothing of that name can be changed so")),
        }
        Ok(())
    }

    /// Changes that would make the world simpler, the most promising first.
    #[must_use]
    pub fn simpler(&self) -> Vec<String> {
        let mut changes: Vec<String> = self
            .faults
            .keys()
            .map(|fault| format!("without={fault:?}"))
            .collect();
        let mut less = |what: &str, now: u32, least: u32| {
            if now / 2 >= least {
                changes.push(format!("{what}={}", now / 2));
            } else if now > least {
                changes.push(format!("{what}={least}"));
            }
        };
        less(
            "faults_for",
            u32::try_from(self.faults_for.as_secs()).unwrap_or(u32::MAX),
            1,
        );
        less("messages", self.messages, 1);
        less("producers", self.producers, 1);
        less("groups", self.groups, if self.wanted.is_some() { 2 } else { 1 });
        less("topics", self.topics, 1);
        less("queues", self.queues, 1);
        less("shards", self.shards, 1);
        less("at_once", self.at_once, 1);
        less("consumers", self.consumers, 1);
        if self.habits != Habits::NONE {
            changes.push("habits=none".into());
        }
        if self.slowness.outages > 0 {
            changes.push("outages=none".into());
        }
        if self.slowness != Slowness::NONE {
            changes.push("slowness=none".into());
        }
        if self.push {
            changes.push("push=none".into());
        }
        if self.deaths {
            changes.push("deaths=none".into());
        }
        if self.work_ms > 0 || self.consumers_from > Duration::ZERO {
            changes.push("work=none".into());
        }
        if self.batches {
            changes.push("batches=none".into());
        }
        if self.limits.forget() {
            changes.push("retention=none".into());
        }
        if self.pauses {
            changes.push("pauses=none".into());
        }
        if self.pulls {
            changes.push("pulls=none".into());
        }
        if self.replays {
            changes.push("replays=none".into());
        }
        if self.wanted.is_some() {
            changes.push("wanted=everything".into());
        }
        if self.operator {
            changes.push("operator=none".into());
        }
        if self.loss > 0.0 {
            changes.push("loss=none".into());
        }
        if self.skew_ms > 0 {
            changes.push("skew_ms=0".into());
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[madsim::test]
    async fn everything_that_would_be_simpler_can_be_changed_until_nothing_is_left() {
        let mut plan = Plan::draw();
        let mut steps = 0;
        while let Some(change) = plan.simpler().first() {
            assert_eq!(plan.change(change), Ok(()), "{change}");
            steps += 1;
            assert!(steps < 200, "{change} changes nothing");
        }
        assert!(plan.faults.is_empty());
        assert_eq!((plan.messages, plan.producers, plan.groups), (1, 1, 1));
    }

    #[madsim::test]
    async fn changes_that_mean_nothing_are_refused() {
        let mut plan = Plan::draw();
        for change in [
            "messages",
            "messages=many",
            "without=Rain",
            "weather=1",
            "habits=all",
        ] {
            assert!(plan.change(change).is_err(), "{change}");
        }
    }
}
