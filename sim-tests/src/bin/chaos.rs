//! Real nodes under real faults: see `sim_tests::chaos`.

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    sim_tests::chaos::main()
}

#[cfg(madsim)]
fn main() {
    eprintln!("chaos runs real processes, without the simulator: run `make chaos`");
    std::process::exit(2);
}
