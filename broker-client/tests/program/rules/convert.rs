//! `rules convert` and `rules schema`.

use serde_json::{Value, json};

use super::{Folder, RULES, answer, stderr, stdout};

#[test]
fn a_converted_file_decides_alike_and_the_file_stays() {
    let folder = Folder::new("convert");
    let requests = [
        json!({"url": "/api/issues/search"}),
        json!({"url": "/FILES/a%2Fb/"}),
        json!({"url": "/search?q=shop-1", "headers": {"x-team": "blue"}}),
        json!({"method": "POST", "url": "/hook", "body": {"action": "closed"}}),
    ];
    let before = folder.eval(&requests);
    let converted = stdout(&folder.rules(&["convert", "accept.json"]), 0);
    assert_eq!(folder.read("accept.json"), RULES);
    folder.write("accept.json", &converted);
    let version = &serde_json::from_str::<Value>(&converted).unwrap()["version"];
    assert_eq!(*version, 2);
    assert_eq!(folder.eval(&requests), before);

    let said = stderr(&folder.rules(&["convert", "accept.json"]), 64);
    assert!(said.starts_with("broker-client: accept.json: "), "{said}");
}

#[test]
fn the_schema_is_json() {
    let folder = Folder::new("schema");
    let schema: Value = answer(&folder.rules(&["schema"]), 0);
    assert!(schema["$schema"].is_string(), "{schema}");
}
