//! What is different between two configurations of a neighbor, and what that costs.

use super::apply::Effect;
use crate::config::PeerConfig;

/// Which of the paths are sent is our affair; that several are, the OPEN said.
fn add_paths_effect(old: &PeerConfig, new: &PeerConfig) -> Effect {
    let offer = |peer: &PeerConfig| (peer.add_paths.receive, peer.add_paths.send.is_some());
    if offer(old) == offer(new) { Effect::ReEvaluated } else { Effect::SessionReset }
}

/// Which fields differ, and the strongest effect any of them has. `same_as`: the peer's AS is right
/// under both.
pub(super) fn differences(
    old: &PeerConfig,
    new: &PeerConfig,
    same_as: bool,
) -> (Vec<&'static str>, Effect) {
    let mut fields = Vec::new();
    let mut effect = Effect::Live;
    // Every field is named once here, so that a new one without an effect does not compile.
    let PeerConfig {
        name: _,
        description,
        address,
        interface,
        port,
        scope_id,
        asn,
        local_asn,
        local_as,
        source_address,
        source_interface,
        passive,
        shutdown,
        password,
        tcp_ao,
        ttl_security,
        multihop,
        bfd,
        hold_time,
        keepalive_time,
        send_hold_time,
        connect_retry_time,
        advertisement_interval,
        restart_time,
        families,
        next_hop,
        next_hop_v4,
        next_hop_v6,
        extended_next_hop,
        max_prefixes,
        route_reflector_client,
        add_paths,
        allowas_in,
        as_override,
        remove_private_as,
        role,
        role_strict,
        graceful_shutdown,
        honor_graceful_shutdown,
        enforce_first_as,
        import,
        export,
    } = new;
    for (field, differs, its_effect) in [
        ("description", *description != old.description, Effect::Live),
        ("address", *address != old.address, Effect::SessionReset),
        ("interface", *interface != old.interface, Effect::SessionReset),
        ("port", *port != old.port, Effect::NextSession),
        ("scope-id", *scope_id != old.scope_id, Effect::SessionReset),
        ("asn", *asn != old.asn, if same_as { Effect::Live } else { Effect::SessionReset }),
        ("local-asn", *local_asn != old.local_asn, Effect::SessionReset),
        ("local-as", *local_as != old.local_as, Effect::ReEvaluated),
        ("source-address", *source_address != old.source_address, Effect::SessionReset),
        ("source-interface", *source_interface != old.source_interface, Effect::SessionReset),
        ("passive", *passive != old.passive, Effect::Live),
        ("shutdown", *shutdown != old.shutdown, Effect::Live),
        ("password", *password != old.password, Effect::Live),
        ("tcp-ao", *tcp_ao != old.tcp_ao, Effect::SessionReset),
        ("ttl-security", *ttl_security != old.ttl_security, Effect::Live),
        ("multihop", *multihop != old.multihop, Effect::Live),
        ("bfd", *bfd != old.bfd, Effect::Live),
        ("hold-time", *hold_time != old.hold_time, Effect::NextSession),
        ("keepalive-time", *keepalive_time != old.keepalive_time, Effect::Live),
        ("send-hold-time", *send_hold_time != old.send_hold_time, Effect::Live),
        ("connect-retry-time", *connect_retry_time != old.connect_retry_time, Effect::Live),
        (
            "advertisement-interval",
            *advertisement_interval != old.advertisement_interval,
            Effect::Live,
        ),
        ("restart-time", *restart_time != old.restart_time, Effect::NextSession),
        ("families", *families != old.families, Effect::SessionReset),
        ("next-hop", *next_hop != old.next_hop, Effect::ReEvaluated),
        ("next-hop-v4", *next_hop_v4 != old.next_hop_v4, Effect::ReEvaluated),
        ("next-hop-v6", *next_hop_v6 != old.next_hop_v6, Effect::ReEvaluated),
        ("extended-next-hop", *extended_next_hop != old.extended_next_hop, Effect::SessionReset),
        ("max-prefixes", *max_prefixes != old.max_prefixes, Effect::Live),
        (
            "route-reflector-client",
            *route_reflector_client != old.route_reflector_client,
            Effect::ReEvaluated,
        ),
        ("add-paths", *add_paths != old.add_paths, add_paths_effect(old, new)),
        ("allowas-in", *allowas_in != old.allowas_in, Effect::ReEvaluated),
        ("as-override", *as_override != old.as_override, Effect::ReEvaluated),
        ("remove-private-as", *remove_private_as != old.remove_private_as, Effect::ReEvaluated),
        ("role", *role != old.role, Effect::SessionReset),
        ("role-strict", *role_strict != old.role_strict, Effect::NextSession),
        ("graceful-shutdown", *graceful_shutdown != old.graceful_shutdown, Effect::ReEvaluated),
        (
            "honor-graceful-shutdown",
            *honor_graceful_shutdown != old.honor_graceful_shutdown,
            Effect::ReEvaluated,
        ),
        ("enforce-first-as", *enforce_first_as != old.enforce_first_as, Effect::ReEvaluated),
        ("import", *import != old.import, Effect::ReEvaluated),
        ("export", *export != old.export, Effect::ReEvaluated),
    ] {
        if differs {
            fields.push(field);
            effect = effect.max(its_effect);
        }
    }
    (fields, effect)
}
