//! How long selectors take to read and to match.

use std::collections::BTreeMap;
use std::hint::black_box;

use api::selector::Selector;
use criterion::{Criterion, criterion_group, criterion_main};

const SELECTORS: [(&str, &str); 4] = [
    ("one label", "app == 'frontend'"),
    (
        "kubernetes policy",
        "projectcalico.org/orchestrator == 'k8s' && app == 'api' && tier in {'a', 'b'}",
    ),
    (
        "eight terms",
        "(a == '1' || b == '2') && c != '3' && has(d) && e starts with 'f' && \
                     g not in {'h', 'i'} && !(j contains 'k' || l ends with 'm')",
    ),
    ("set of a hundred", ""),
];

fn text(name: &str, text: &str) -> String {
    if name != "set of a hundred" {
        return text.to_owned();
    }
    let values: Vec<String> = (0..100).map(|n| format!("'value-{n}'")).collect();
    format!("app in {{{}}}", values.join(", "))
}

fn selectors(c: &mut Criterion) {
    let labels: BTreeMap<String, String> = [
        ("app", "api"),
        ("tier", "b"),
        ("d", ""),
        ("e", "f1"),
        ("g", "x"),
        ("b", "2"),
        ("projectcalico.org/orchestrator", "k8s"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    for (name, selector) in SELECTORS {
        let selector = text(name, selector);
        c.bench_function(&format!("parse/{name}"), |b| {
            b.iter(|| Selector::parse(black_box(&selector)));
        });
        let Ok(parsed) = Selector::parse(&selector) else { continue };
        c.bench_function(&format!("match/{name}"), |b| {
            b.iter(|| black_box(&parsed).matches(black_box(&labels)));
        });
    }
}

criterion_group!(benches, selectors);
criterion_main!(benches);
