//! A lab from nothing to the first complete ping matrix.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};

use super::{Bench, Row, median};
use crate::cli::serving_pod;
use crate::lab::{IpamKind, Lab, Options, is_ready, temporary_name};
use crate::progress::Progress;
use crate::topology::{Shape, Size};

pub(super) const BENCH: Bench = Bench { name: "cni-up", body: run };

const RUNS: usize = 3;

fn run(progress: &Progress) -> BoxFuture<'_, Result<Vec<Row>>> {
    async move {
        let mut seconds = Vec::new();
        for number in 1..=RUNS {
            let one = Box::pin(once(number));
            seconds.push(progress.step(&format!("run {number} of {RUNS}"), one).await?);
        }
        let value = median(&seconds)?;
        let workload = "`cargo lab up`: 3 nodes, 2 racks, 6 pods, ping matrix";
        Ok(vec![Row::new(workload, "lab", "p50", "s", value)])
    }
    .boxed()
}

async fn once(number: usize) -> Result<f64> {
    let options = Options {
        name: temporary_name(&format!("up{number}")),
        size: Size { shape: Shape::Racks, nodes: 3, racks: 2, dual_homed: 0 },
        pods: 0,
        source: None,
        ipam: IpamKind::Etcd,
        agents: true,
    };
    let start = Instant::now();
    let lab = Lab::up(&options, &Progress::hidden()).await?;
    let measured = async {
        let view = lab.view();
        let mut pods = Vec::new();
        for node in &view.plan.topology.nodes {
            for number in 1..=2 {
                let name = format!("{}-{number}", node.name);
                pods.push(serving_pod("default", &name, &node.name));
            }
        }
        let limit = Duration::from_secs(60);
        try_join_all(pods.iter().map(|pod| view.run_pod(pod, limit))).await?;
        view.wait_for_routes().await?;
        let pods: Vec<_> = view.cluster.pods().await?.into_iter().filter(is_ready).collect();
        let pings = view.ping_matrix(&pods).await;
        let all = pings.iter().flatten().flatten().all(|probe| probe.ok);
        ensure!(all && pings.len() == 6, "not every pod reaches every pod");
        Ok(start.elapsed().as_secs_f64())
    }
    .await;
    lab.down().await?;
    measured
}
