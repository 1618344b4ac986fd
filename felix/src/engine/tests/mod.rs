//! Tests of the engine as a whole, through its public face.

mod calico_icmp;
mod calico_log;
mod calico_oracle;
mod calico_random;
mod calico_recipes;
mod calico_refused;
mod calico_services;
mod calico_source_ports;
mod calico_strategies;
mod cluster_fuzz;
mod cluster_oracle;
mod cluster_policies;
mod cluster_refused;
mod cluster_strategies;
mod endpoints;
mod explain;
mod hosts;
mod hosts_random;
mod kernel;
mod oracle;
mod random;
mod recipes;
mod refused;
mod staged;
mod strategies;
mod world;
