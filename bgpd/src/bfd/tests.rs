//! The codec, the machine alone and in pairs, and the table.

mod link;
mod packet;
mod session;
mod table;
