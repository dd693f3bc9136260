//! Packet filters: programs of the classic Berkeley packet filter, which every kernel that has `tc` can run. They stand
//! where packets leave the switch for a node, and drop them by who sent them, always or as chance has it, or put them into a
//! queue of their sender.

use std::net::Ipv4Addr;

/// Loads half a word, a word.
const LOAD_HALF: u16 = 0x28;
const LOAD: u16 = 0x20;
/// Skips forward, by comparison with a constant.
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where the type of an Ethernet frame is, and what it is for IPv4.
const TYPE_AT: u32 = 12;
const IPV4: u32 = 0x0800;
/// Where the sender's address is, after the Ethernet header.
const SENDER_AT: u32 = 26;
/// The kernel's random number, in its place for such things (`SKF_AD_OFF + SKF_AD_RANDOM`).
const RANDOM_AT: u32 = 0xffff_f000 + 56;
/// Verdicts of `tc`: drop, and go on as if there were no filter.
const DROP: u32 = 2;
const GO_ON: u32 = u32::MAX;
/// Instructions for one sender.
const PER_SENDER: u32 = 5;
const PER_QUEUE: u32 = 3;
/// What is said of packets that have no queue of their own.
const NO_QUEUE: u32 = 0;

/// The program that drops packets of these senders, each with a probability; as `tc` wants it.
pub(super) fn program(drop: &[(Ipv4Addr, f64)]) -> String {
    let all = u8::try_from(drop.len() as u32 * PER_SENDER + 1).expect("a program for a few senders");
    // (what, skip so many if so, skip so many if not, with which number)
    let mut code: Vec<(u16, u8, u8, u32)> = vec![(LOAD_HALF, 0, 0, TYPE_AT), (IF_EQUAL, 0, all - 1, IPV4)];
    for (sender, share) in drop {
        let below = (share.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        code.extend([
            (LOAD, 0, 0, SENDER_AT),
            (IF_EQUAL, 0, 3, u32::from(*sender)),
            (LOAD, 0, 0, RANDOM_AT),
            (IF_AT_LEAST, 1, 0, below),
            (RETURN, 0, 0, DROP),
        ]);
    }
    code.push((RETURN, 0, 0, GO_ON));
    text(&code)
}

/// The program that names the queue of packets of these senders: `major` and `minor` number in one word. Others have none.
pub(super) fn queues(of: &[(Ipv4Addr, u32)]) -> String {
    let all = u8::try_from(of.len() as u32 * PER_QUEUE + 1).expect("a program for a few senders");
    let mut code: Vec<(u16, u8, u8, u32)> = vec![(LOAD_HALF, 0, 0, TYPE_AT), (IF_EQUAL, 0, all - 1, IPV4)];
    for (sender, queue) in of {
        code.extend([
            (LOAD, 0, 0, SENDER_AT),
            (IF_EQUAL, 0, 1, u32::from(*sender)),
            (RETURN, 0, 0, *queue),
        ]);
    }
    code.push((RETURN, 0, 0, NO_QUEUE));
    text(&code)
}

fn text(code: &[(u16, u8, u8, u32)]) -> String {
    let lines = code
        .iter()
        .map(|(what, yes, no, number)| format!("{what} {yes} {no} {number}"));
    let lines: Vec<String> = std::iter::once(code.len().to_string()).chain(lines).collect();
    lines.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a packet, with a given random number; true if the packet is dropped.
    fn dropped(program: &str, kind: u32, sender: Ipv4Addr, random: u32) -> bool {
        said(program, kind, sender, random) == DROP
    }

    /// Runs a program on a packet, with a given random number; what it says.
    fn said(program: &str, kind: u32, sender: Ipv4Addr, random: u32) -> u32 {
        let code: Vec<Vec<u32>> = program
            .split(',')
            .skip(1)
            .map(|line| {
                line.split(' ')
                    .map(|word| word.parse().expect("a number"))
                    .collect()
            })
            .collect();
        let (mut at, mut value) = (0, 0);
        loop {
            let [what, yes, no, number] = code[at][..] else {
                panic!("four numbers")
            };
            at += 1;
            let mut skip = |so: bool| at += if so { yes } else { no } as usize;
            match what as u16 {
                LOAD_HALF => value = kind,
                LOAD if number == SENDER_AT => value = sender.into(),
                LOAD => value = random,
                IF_EQUAL => skip(value == number),
                IF_AT_LEAST => skip(value >= number),
                RETURN => return number,
                _ => panic!("not used"),
            }
        }
    }

    #[test]
    fn packets_are_dropped_by_sender_and_chance() {
        let [one, two, three] = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
        let program = program(&[(one, 1.0), (two, 0.25)]);
        assert!(dropped(&program, IPV4, one, 0) && dropped(&program, IPV4, one, u32::MAX - 1));
        assert!(dropped(&program, IPV4, two, u32::MAX / 5) && !dropped(&program, IPV4, two, u32::MAX / 3));
        assert!(!dropped(&program, IPV4, three, 0));
        assert!(
            !dropped(&program, 0x0806, one, 0),
            "addresses can always be asked for"
        );
    }

    #[test]
    fn packets_have_the_queue_of_their_sender() {
        let [one, two, three] = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
        let program = queues(&[(one, 0x1_0002), (two, 0x1_0003)]);
        let queue = |kind, sender| said(&program, kind, sender, 0);
        assert_eq!((queue(IPV4, one), queue(IPV4, two)), (0x1_0002, 0x1_0003));
        assert_eq!((queue(IPV4, three), queue(0x0806, one)), (NO_QUEUE, NO_QUEUE));
    }

    #[test]
    fn a_program_for_nobody_lets_everything_pass() {
        assert!(!dropped(&program(&[]), IPV4, Ipv4Addr::LOCALHOST, 0));
    }
}
