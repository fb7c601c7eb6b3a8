//! Control at middle height: a real store, the simulated engine, a simulated edge, and a time that the test moves.

mod account;
mod archives;
mod back;
mod corrupt;
mod crashes;
mod databases;
mod deploys;
mod drills;
mod edges;
mod ends;
mod faults;
mod gate;
mod hosts;
mod house;
mod images;
mod jobs;
mod keys;
mod people;
mod places;
mod promotes;
mod sleepers;
mod speed;
mod storage;
mod strategies;
mod upgrades;
mod world;
