use proptest::prelude::*;

use super::*;

proptest! {
    /// What is written is what is read.
    #[test]
    fn attributes_survive(
        list in prop::collection::vec((0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let mut batch = Batch::new();
        batch.message(7, ACK, |batch| {
            for (kind, value) in &list {
                batch.attr(*kind, value);
            }
        });
        batch.number(41, usize::MAX);
        let bytes = batch.bytes().unwrap();
        let messages: Vec<_> = Messages(bytes).collect();
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!(messages[0].sequence, 41);
        prop_assert_eq!(messages[0].kind, 7);
        let read: Vec<_> = messages[0].attrs(0).map(|(k, v)| (k, v.to_vec())).collect();
        prop_assert_eq!(read, list);
    }

    /// Nothing that is received makes a walker panic or run for ever.
    #[test]
    fn garbage_ends(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Messages(&bytes).count() <= bytes.len() / HEADER);
        prop_assert!(Attrs(&bytes).count() <= bytes.len());
    }
}

#[test]
fn an_attribute_of_64_kib_is_refused() {
    let mut batch = Batch::new();
    batch.message(1, 0, |batch| batch.nest(1, |batch| batch.attr(2, &vec![0; 65_531])));
    assert!(matches!(batch.bytes(), Err(Error::TooLong)));

    let mut batch = Batch::new();
    batch.message(1, 0, |batch| batch.attr(2, &vec![0; 65_531]));
    assert!(batch.bytes().is_ok(), "65,535 bytes with the header just fit");
    batch.message(1, 0, |batch| batch.attr(2, &vec![0; 65_532]));
    assert!(matches!(batch.bytes(), Err(Error::TooLong)));
}
