//! placeholder
use std::process::ExitCode;
pub(super) fn main(args: super::serve_args::ServeArgs) -> ExitCode { let _ = (args.load(), super::logging::init()); ExitCode::SUCCESS }
