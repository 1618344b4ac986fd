use serde_json::json;

use super::*;

fn cluster() -> Cluster {
    let pool = |name: &str, cidr: &str, uses: &[AllowedUse], manual| Pool {
        name: name.to_owned(),
        cidr: cidr.parse().unwrap(),
        block_size: if cidr.contains(':') { 122 } else { 26 },
        disabled: false,
        node_selector: api::selector::Selector::all(),
        namespace_selector: None,
        allowed_uses: uses.to_vec(),
        manual,
    };
    let lb = &[AllowedUse::LoadBalancer][..];
    let pools = vec![
        pool("pods", "10.0.0.0/16", &[AllowedUse::Workload], false),
        pool("lb", "192.0.2.0/25", lb, false),
        pool("named", "192.0.2.128/25", lb, true),
        pool("lb6", "fd00::/64", lb, false),
    ];
    Cluster { pools, ..Cluster::default() }
}

/// A Service of these families, with such annotations, fields of its spec, and ingress.
fn service(families: &[&str], annotations: Value, spec: Value, ingress: &[&str]) -> Seen {
    let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
    let mut whole = json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "7",
            "annotations": annotations,
        },
        "spec": {"type": "LoadBalancer", "ipFamilies": families},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    for (field, value) in spec.as_object().unwrap() {
        whole["spec"][field] = value.clone();
    }
    Seen::of(serde_json::from_value(whole).unwrap()).unwrap()
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// As text: `+ADDRESS or ANY(FAMILY, POOLS)`, `instead of`, `-released`.
fn told(plan: &Plan) -> String {
    let wish = |wish: &Wish| match wish {
        Wish::Address(ip) => ip.to_string(),
        Wish::Any(family, pools) => format!("{family}{pools:?}"),
    };
    let mut steps: Vec<String> = Vec::new();
    for Get { wishes, instead_of } in &plan.get {
        let wishes: Vec<String> = wishes.iter().map(wish).collect();
        let instead = instead_of.map(|ip| format!(" instead of {ip}")).unwrap_or_default();
        steps.push(format!("+{}{instead}", wishes.join(" or ")));
    }
    steps.extend(plan.release.iter().map(|ip| format!("-{ip}")));
    steps.join(" ")
}

const IPS: &str = ADDRESSES;
const V4: &str = "projectcalico.org/ipv4pools";
const V6: &str = "projectcalico.org/ipv6pools";

#[test]
fn what_follows_from_what_a_service_asks_for_and_has() {
    let (four, both) = (&["IPv4"][..], &["IPv4", "IPv6"][..]);
    let none = || json!({});
    for (families, annotations, spec, held, wanted) in [
        (four, none(), none(), &[][..], "+IPv4[]"),
        (four, none(), none(), &["192.0.2.1"], ""),
        (both, none(), none(), &["192.0.2.1"], "+IPv6[]"),
        (four, none(), none(), &["192.0.2.1", "fd00::1"], "-fd00::1"),
        // Of a pool that is given only by name; of none; of one for pods.
        (four, none(), none(), &["192.0.2.200"], "+IPv4[] instead of 192.0.2.200"),
        (four, none(), none(), &["203.0.113.1"], ""),
        (four, json!({V4: "[\"named\"]"}), none(), &["192.0.2.200"], ""),
        (
            four,
            json!({V4: "[\"named\"]"}),
            none(),
            &["192.0.2.1"],
            "+IPv4[\"named\"] instead of 192.0.2.1",
        ),
        (four, json!({V4: "[\"192.0.2.128/25\", \"lb\"]"}), none(), &["192.0.2.1"], ""),
        (four, json!({V4: "[]"}), none(), &[], "+IPv4[]"),
        // The other family goes on as it was.
        (both, json!({V4: "[\"lb\"]"}), none(), &["192.0.2.1", "fd00::1"], ""),
        (both, json!({V6: "[\"lb6\"]"}), none(), &[], "+IPv4[] +IPv6[\"lb6\"]"),
        // Addresses by name: these and no others.
        (four, json!({IPS: "[\"192.0.2.9\"]"}), none(), &[], "+192.0.2.9"),
        (four, json!({IPS: "[\"192.0.2.9\"]"}), none(), &["192.0.2.9"], ""),
        (
            both,
            json!({IPS: "[\"192.0.2.9\"]"}),
            none(),
            &["192.0.2.1", "fd00::1"],
            "+192.0.2.9 instead of 192.0.2.1 -fd00::1",
        ),
        (four, json!({IPS: "[\"fd00::9\", \"192.0.2.9\"]"}), none(), &[], "+192.0.2.9 +fd00::9"),
        // The field, for one family.
        (both, none(), json!({"loadBalancerIP": "192.0.2.9"}), &[], "+192.0.2.9 +IPv6[]"),
        (four, none(), json!({"loadBalancerIP": "192.0.2.200"}), &["192.0.2.200"], ""),
        (
            four,
            json!({IPS: "[\"192.0.2.9\"]"}),
            json!({"loadBalancerIP": "192.0.2.8"}),
            &[],
            "+192.0.2.9",
        ),
    ] {
        let text = format!("{families:?} {annotations} {spec} {held:?}");
        let service = service(families, annotations, spec, &[]);
        assert_eq!(told(&service.plan(&addresses(held), &cluster()).unwrap()), wanted, "{text}");
    }
}

/// A store that was restored may lack what clients go on using.
#[test]
fn what_the_status_names_is_asked_for_first() {
    let plan = |annotations: Value, ingress: &[&str], held: &[&str]| {
        let service = service(&["IPv4"], annotations, json!({}), ingress);
        told(&service.plan(&addresses(held), &cluster()).unwrap())
    };
    assert_eq!(plan(json!({}), &["192.0.2.7"], &[]), "+192.0.2.7 or IPv4[]");
    assert_eq!(
        plan(json!({V4: "[\"named\"]"}), &["192.0.2.200"], &[]),
        "+192.0.2.200 or IPv4[\"named\"]"
    );
    // Not where it may not have it, or has another one.
    for ingress in ["192.0.2.200", "10.0.0.1", "203.0.113.1", "fd00::1"] {
        assert_eq!(plan(json!({}), &[ingress], &[]), "+IPv4[]", "{ingress}");
    }
    assert_eq!(plan(json!({}), &["192.0.2.7"], &["192.0.2.8"]), "");
}

#[test]
fn what_cannot_be_followed_is_named_and_changes_nothing() {
    for (annotations, spec, wanted) in [
        (
            json!({IPS: "192.0.2.9"}),
            json!({}),
            "annotation projectcalico.org/loadBalancerIPs: \"192.0.2.9\" is not a JSON list of strings: ",
        ),
        (
            json!({IPS: "[\"192.0.2\"]"}),
            json!({}),
            "annotation projectcalico.org/loadBalancerIPs: \"192.0.2\" is not an IP address",
        ),
        (
            json!({IPS: "[\"192.0.2.1\", \"192.0.2.2\"]"}),
            json!({}),
            "annotation projectcalico.org/loadBalancerIPs: 192.0.2.1 and 192.0.2.2 are both IPv4; a \
             Service has at most one address of a family",
        ),
        (
            json!({V4: "[\"no\"]"}),
            json!({}),
            "annotation projectcalico.org/ipv4pools: no is no IPPool",
        ),
        (
            json!({V4: "[\"lb6\"]"}),
            json!({}),
            "annotation projectcalico.org/ipv4pools: lb6 is not IPv4",
        ),
        (
            json!({V4: "[\"pods\"]"}),
            json!({}),
            "annotation projectcalico.org/ipv4pools: pods is not for LoadBalancer (spec.allowedUses)",
        ),
        (
            json!({}),
            json!({"loadBalancerIP": "example"}),
            "spec.loadBalancerIP: \"example\" is not an IP address",
        ),
    ] {
        let service = service(&["IPv4"], annotations, spec, &[]);
        let error = service.plan(&addresses(&["192.0.2.1"]), &cluster()).unwrap_err();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn whose_a_service_is() {
    let (all, requested) = (AssignIps::AllServices, AssignIps::RequestedServicesOnly);
    for (annotations, spec, wanted) in [
        (json!({}), json!({}), [true, false]),
        (json!({}), json!({"type": "ClusterIP"}), [false, false]),
        (json!({IPS: "[\"192.0.2.9\"]"}), json!({"type": "NodePort"}), [false, false]),
        (json!({}), json!({"loadBalancerClass": "calico"}), [true, true]),
        (json!({V4: "[\"lb\"]"}), json!({"loadBalancerClass": "other"}), [false, false]),
        (json!({V4: "[\"lb\"]"}), json!({}), [true, true]),
        (json!({V6: "[\"lb6\"]"}), json!({}), [true, true]),
        (json!({IPS: ""}), json!({}), [true, false]),
        (json!({"other.example": "x"}), json!({}), [true, false]),
        (json!({}), json!({"loadBalancerIP": "192.0.2.9"}), [true, true]),
    ] {
        let text = format!("{annotations} {spec}");
        let service = service(&["IPv4"], annotations, spec, &[]);
        assert_eq!([all, requested].map(|assign| service.is_ours(assign)), wanted, "{text}");
    }
}

#[test]
fn the_status_is_what_it_holds_and_others_entries_stay_when_it_is_theirs() {
    let of = |ingress: &[&str]| service(&["IPv4"], json!({}), json!({}), ingress);
    let held = addresses(&["192.0.2.1"]);
    assert_eq!(of(&["192.0.2.1"]).ingress_of(&held), None);
    assert_eq!(of(&[]).ingress_of(&addresses(&[])), None);
    let ours = Some(vec![json!({"ip": "192.0.2.1"})]);
    assert_eq!(of(&[]).ingress_of(&held), ours);
    assert_eq!(of(&["192.0.2.1", "198.51.100.1"]).ingress_of(&held), ours);
    assert_eq!(of(&["192.0.2.1"]).ingress_of(&addresses(&[])), Some(vec![]));
    assert_eq!(of(&["198.51.100.1"]).ingress_without(&held), None);
    let theirs = of(&["192.0.2.1", "198.51.100.1"]).ingress_without(&held).unwrap();
    assert_eq!(theirs, [json!({"ip": "198.51.100.1"})]);
}
