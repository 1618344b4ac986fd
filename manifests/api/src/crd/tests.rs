use std::fs;
use std::path::Path;

use super::*;

#[test]
fn the_files_are_those_the_types_give() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds"));
    let mut expected = vec!["kustomization.yaml".to_owned()];
    for definition in all().unwrap() {
        let (name, yaml) = to_yaml(&definition).unwrap();
        let written = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(written == yaml, "{name} is not up to date: run `cargo run -p api --bin crds`");
        expected.push(name);
    }
    let mut found: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn nothing_of_rust_is_left() {
    for definition in all().unwrap() {
        let yaml = to_yaml(&definition).unwrap().1;
        for remnant in ["nullable", "uint", "[`", "anyOf: []"] {
            assert!(!yaml.contains(remnant), "{} has {remnant}", definition.spec.names.plural);
        }
    }
}
