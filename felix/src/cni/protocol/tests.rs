use proptest::prelude::*;
use serde_json::json;

use super::*;

fn add() -> Request {
    Request::Cni(Box::new(CniRequest {
        command: "ADD".into(),
        container_id: "c1".into(),
        netns: "/run/netns/a".into(),
        ifname: "eth0".into(),
        args: "K8S_POD_NAME=a".into(),
        path: String::new(),
        config: json!({"cniVersion": "1.1.0", "name": "net", "type": "caracal"}),
    }))
}

fn explain() -> Request {
    let (source, destination) = ("shop/web".to_owned(), "10.0.0.1".to_owned());
    let with = Some("kind: Tier".to_owned());
    let source_port = with.as_ref().map(|_| 5353);
    let (protocol, port, staged) = (6, 80, true);
    let question = Question { source, destination, protocol, port, source_port, with, staged };
    Request::Explain(Box::new(question))
}

#[test]
fn requests_are_tagged_json_behind_a_length() {
    let bytes = encode(&Request::Status).unwrap();
    assert_eq!(bytes, b"\0\0\0\x14{\"request\":\"status\"}");
    assert_eq!(
        serde_json::to_value(add()).unwrap(),
        json!({
            "request": "cni", "command": "ADD", "containerId": "c1", "netns": "/run/netns/a",
            "ifname": "eth0", "args": "K8S_POD_NAME=a",
            "config": {"cniVersion": "1.1.0", "name": "net", "type": "caracal"},
        })
    );
}

#[test]
fn every_request_and_reply_comes_back_as_it_went() {
    let after = Some(Place { start: 7, number: 8 });
    let drops = Request::Drops(DropsQuestion { pod: Some("shop/web".into()), after, staged: true });
    let simple = [Request::Status, Request::Endpoints, Request::Routes];
    for request in simple.into_iter().chain([add(), explain(), drops]) {
        let mut bytes = Vec::new();
        send(&mut bytes, &request).unwrap();
        assert_eq!(receive::<Request>(&mut bytes.as_slice()).unwrap(), request);
    }
    let error = Error { code: 11, msg: "try again later".into(), details: "etcd is away".into() };
    let replies: [CniReply; 3] =
        [Reply::Result(None), Reply::Result(Some(json!({"ips": []}))), Reply::Error(error)];
    for reply in replies {
        let mut bytes = Vec::new();
        send(&mut bytes, &reply).unwrap();
        assert_eq!(receive::<CniReply>(&mut bytes.as_slice()).unwrap(), reply);
    }
    assert_eq!(serde_json::to_value(CniReply::Result(None)).unwrap(), json!({"result": null}));
}

#[test]
fn a_message_cut_anywhere_is_an_end_of_file() {
    let bytes = encode(&add()).unwrap();
    for cut in 0..bytes.len() {
        match receive::<Request>(&mut &bytes[..cut]) {
            Err(MessageError::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn the_limit_is_exact_in_both_directions() {
    // A JSON string of n characters takes n + 2 bytes.
    let largest = "x".repeat(MAX_MESSAGE - 2);
    let bytes = encode(&largest).unwrap();
    assert_eq!(receive::<String>(&mut bytes.as_slice()).unwrap(), largest);

    let over = "x".repeat(MAX_MESSAGE - 1);
    assert!(matches!(encode(&over), Err(MessageError::TooLong(n)) if n == MAX_MESSAGE + 1));
    let mut prefix: &[u8] = &u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes();
    assert!(matches!(receive::<Value>(&mut prefix), Err(MessageError::TooLong(_))));
    let mut huge: &[u8] = &[0xff; 64];
    assert!(matches!(receive::<Value>(&mut huge), Err(MessageError::TooLong(_))));
}

#[test]
fn garbage_is_an_error_that_says_so() {
    for body in ["", "{", "null", "[]", r#"{"request":"shutdown"}"#, r#"{"request":"cni"}"#] {
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body.as_bytes());
        let error = receive::<Request>(&mut bytes.as_slice()).unwrap_err();
        assert!(error.to_string().starts_with("not a valid message: "), "{body}: {error}");
    }
}

#[tokio::test]
async fn both_halves_speak_the_same_bytes() {
    let (mut client, mut agent) = tokio::io::duplex(16);
    let sent = tokio::spawn(async move {
        send_async(&mut client, &add()).await.unwrap();
        receive_async::<CniReply>(&mut client).await.unwrap()
    });
    assert_eq!(receive_async::<Request>(&mut agent).await.unwrap(), add());
    send_async(&mut agent, &CniReply::Result(None)).await.unwrap();
    assert_eq!(sent.await.unwrap(), Reply::Result(None));

    let mut bytes: &[u8] = &encode(&add()).unwrap();
    assert_eq!(receive_async::<Request>(&mut bytes).await.unwrap(), add());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = receive::<Request>(&mut bytes.as_slice());
        let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        framed.extend(bytes);
        let _ = receive::<Request>(&mut framed.as_slice());
        let _ = receive::<CniReply>(&mut framed.as_slice());
    }
}
