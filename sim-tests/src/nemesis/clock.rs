//! Wall clocks that somebody sets. They are not set right again: nothing may depend on them.

use madsim::rand::{Rng, thread_rng};

use super::Scene;

const HOUR_MS: i64 = 3_600_000;

pub(super) fn jump(scene: &Scene) -> bool {
    let by = thread_rng().gen_range(-HOUR_MS..=HOUR_MS);
    scene.anybody().wall_clock().jump(by);
    true
}
