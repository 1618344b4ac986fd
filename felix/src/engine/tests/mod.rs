//! Tests of the engine as a whole, through its public face.

mod endpoints;
mod kernel;
mod oracle;
mod random;
mod recipes;
mod strategies;
mod world;
