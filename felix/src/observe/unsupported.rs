//! Which fields are set that the agent does not act on: each is said once in the log, and counted.
//! Pure but for the log.

use std::collections::BTreeMap;

use crate::model::{Kind, ObjectKey};
use crate::source::status::UnsupportedField;

/// What objects in force set without effect.
#[derive(Debug, Default)]
pub struct Unsupported {
    fields: BTreeMap<(Kind, String), usize>,
    objects: BTreeMap<(Kind, ObjectKey), Vec<String>>,
}

impl Unsupported {
    /// The object is there and sets these; returns whether anything changed. A field that no
    /// object of its kind has set before is logged, with this object as the example.
    pub fn set(&mut self, kind: Kind, key: &ObjectKey, mut fields: Vec<String>) -> bool {
        fields.sort_unstable();
        fields.dedup();
        if self.objects.get(&(kind, key.clone())).map_or(&[][..], Vec::as_slice) == fields {
            return false;
        }
        self.remove(kind, key);
        for field in &fields {
            let said_before = self.fields.contains_key(&(kind, field.clone()));
            *self.fields.entry((kind, field.clone())).or_default() += 1;
            if !said_before {
                tracing::warn!(%kind, object = %key, field, "not supported yet");
            }
        }
        if !fields.is_empty() {
            self.objects.insert((kind, key.clone()), fields);
        }
        true
    }

    /// The object is gone; returns whether anything changed.
    pub fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let Some(fields) = self.objects.remove(&(kind, key.clone())) else { return false };
        for field in fields {
            // At zero it stays known, so that it is not said again.
            if let Some(count) = self.fields.get_mut(&(kind, field)) {
                *count -= 1;
            }
        }
        true
    }

    /// The fields that objects set at present.
    pub fn report(&self) -> Vec<UnsupportedField> {
        self.fields
            .iter()
            .filter(|(_, objects)| **objects > 0)
            .map(|((kind, field), objects)| UnsupportedField {
                kind: *kind,
                field: field.clone(),
                objects: *objects,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_by_field() {
        let mut unsupported = Unsupported::default();
        let (a, b) = (ObjectKey::cluster("a"), ObjectKey::cluster("b"));
        assert!(!unsupported.set(Kind::IPPool, &a, vec![]));
        assert!(unsupported.set(
            Kind::IPPool,
            &a,
            vec!["spec.ipipMode".into(), "spec.vxlanMode".into()]
        ));
        assert!(!unsupported.set(
            Kind::IPPool,
            &a,
            vec!["spec.vxlanMode".into(), "spec.ipipMode".into()]
        ));
        assert!(unsupported.set(Kind::IPPool, &b, vec!["spec.vxlanMode".into()]));
        let count = |u: &Unsupported| {
            u.report().into_iter().map(|f| (f.field, f.objects)).collect::<Vec<_>>()
        };
        assert_eq!(
            count(&unsupported),
            [("spec.ipipMode".into(), 1), ("spec.vxlanMode".into(), 2)]
        );
        assert!(unsupported.set(Kind::IPPool, &a, vec![]));
        assert!(!unsupported.remove(Kind::IPPool, &a));
        assert_eq!(count(&unsupported), [("spec.vxlanMode".into(), 1)]);
        assert!(unsupported.remove(Kind::IPPool, &b));
        assert_eq!(count(&unsupported), []);
    }
}
