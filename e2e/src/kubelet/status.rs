//! Pod statuses, as a kubelet writes them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, PodCondition, PodIP, PodStatus,
};

/// Not up yet, and why.
pub(super) fn waiting(pod: &Pod, reason: &str) -> PodStatus {
    let state = ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some("CreatePodSandboxError".into()),
            message: Some(reason.to_owned()),
        }),
        ..ContainerState::default()
    };
    status(pod, "Pending", &[], false, &state)
}

/// Up and ready.
pub(super) fn running(pod: &Pod, addresses: &[IpAddr]) -> PodStatus {
    let state = ContainerState {
        running: Some(ContainerStateRunning { started_at: None }),
        ..ContainerState::default()
    };
    status(pod, "Running", addresses, true, &state)
}

/// Its program has ended.
pub(super) fn finished(pod: &Pod, addresses: &[IpAddr], exit_code: i32) -> PodStatus {
    let state = ContainerState {
        terminated: Some(ContainerStateTerminated { exit_code, ..Default::default() }),
        ..ContainerState::default()
    };
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    status(pod, phase, addresses, false, &state)
}

fn status(
    pod: &Pod,
    phase: &str,
    addresses: &[IpAddr],
    ready: bool,
    state: &ContainerState,
) -> PodStatus {
    let condition = |kind: &str| PodCondition {
        type_: kind.into(),
        status: if ready { "True" } else { "False" }.into(),
        ..PodCondition::default()
    };
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ips: Vec<PodIP> = addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    PodStatus {
        phase: Some(phase.into()),
        pod_ip: ips.first().map(|first| first.ip.clone()),
        pod_ips: Some(ips).filter(|ips| !ips.is_empty()),
        conditions: Some(vec![
            condition("Initialized"),
            condition("Ready"),
            condition("ContainersReady"),
            condition("PodScheduled"),
        ]),
        container_statuses: Some(
            containers
                .iter()
                .map(|container| ContainerStatus {
                    name: container.name.clone(),
                    image: container.image.clone().unwrap_or_default(),
                    ready,
                    started: Some(ready),
                    state: Some(state.clone()),
                    ..ContainerStatus::default()
                })
                .collect(),
        ),
        ..PodStatus::default()
    }
}
