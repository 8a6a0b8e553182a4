//! Sessions over all protocols: the same answers however the input is cut, and nothing but answers or a clean end
//! whatever it is.

mod input;
mod limits;
mod messages;
mod requests;
mod stream;
#[path = "../world/mod.rs"]
mod world;
