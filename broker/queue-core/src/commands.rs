//! One file per command.

pub(crate) mod ack;
pub(crate) mod append;
pub(crate) mod check_back;
pub(crate) mod configure;
pub(crate) mod copy_forward;
pub(crate) mod deliver;
pub(crate) mod depart;
pub(crate) mod end;
pub(crate) mod fire;
pub(crate) mod give_up;
pub(crate) mod recall;
pub(crate) mod redrive;
pub(crate) mod release;
pub(crate) mod renew;
pub(crate) mod retime;
pub(crate) mod seek;
pub(crate) mod tick;
pub(crate) mod trim;
pub(crate) mod unpark;
pub(crate) mod written;
