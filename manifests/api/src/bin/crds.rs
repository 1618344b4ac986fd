//! Writes the CustomResourceDefinitions to the folder given, by default `manifests/crds` beside the
//! crate.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
    let folder = env::args_os().nth(1).map_or_else(|| PathBuf::from(beside), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let mut names = Vec::new();
    for definition in api::crd::all()? {
        let (name, yaml) = api::crd::to_yaml(&definition)?;
        fs::write(folder.join(&name), yaml)?;
        names.push(name);
    }
    let resources: String = names.iter().map(|name| format!("- {name}\n")).collect();
    let kustomization = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
    );
    fs::write(folder.join("kustomization.yaml"), kustomization)?;
    Ok(())
}
