//! Files as `kubectl get` prints them, and folders of such files that change.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb_userspace::command::{services, view};
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::Kind;
use lb_userspace::source::manifests::{self, Folder, parse};
use tokio::sync::mpsc;

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

fn subjects(file: &str, text: &str) -> Vec<String> {
    parse(&Arc::from(file), text).unwrap().objects.iter().map(|o| o.subject().to_string()).collect()
}

fn error(file: &str, text: &str) -> String {
    parse(&Arc::from(file), text).unwrap_err().to_string()
}

#[test]
fn documents_lists_and_json_are_read() {
    let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let both = ["Service default/a", "Service default/b"];
    assert_eq!(subjects("x.yaml", &format!("# a comment\n---\n{a}---\n---\n{b}")), both);
    let item = |text: &str| format!("- {}\n", text.trim_end().replace('\n', "\n  "));
    let list = |kind: &str| format!("apiVersion: v1\nkind: {kind}\nitems:\n{}{}", item(&a), item(&b));
    assert_eq!(subjects("x.yaml", &list("List")), both);
    assert_eq!(subjects("x.yaml", &list("ServiceList")), both);
    let bare =
        "apiVersion: v1\nkind: ServiceList\nitems:\n- {metadata: {name: a}}\n- {metadata: {name: b}}\n";
    assert_eq!(subjects("x.yaml", bare), both, "the items of a typed list need no kind");
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"}}"#;
    assert_eq!(subjects("x.json", json), ["Service n/a"]);
    assert_eq!(subjects("x.yaml", json), ["Service n/a"]);
}

#[test]
fn a_slice_without_endpoints_is_printed_with_null() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, creationTimestamp: null}\n\
                addressType: IPv4\nendpoints: null\nports: null\n";
    assert_eq!(subjects("x.yaml", text), ["EndpointSlice default/a"]);
}

#[test]
fn other_kinds_are_skipped_with_one_notice() {
    let other = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n";
    let knative = "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n";
    let parsed = parse(&Arc::from("x.yaml"), &format!("{other}{other}{knative}")).unwrap();
    let notices: Vec<String> = parsed.notices.iter().map(ToString::to_string).collect();
    let expected = "x.yaml: skipped, because only Service, EndpointSlice, Node and ServiceCIDR are read: \
                    apps/v1 Deployment (2), serving.knative.dev/v1 Service (1)";
    assert_eq!((parsed.objects.len(), notices), (0, vec![expected.to_owned()]));
}

#[test]
fn errors_name_file_document_line_and_object() {
    let good = service("a", "10.96.0.1");
    let bad = service("b", "10.96.0.2").replace("port: 80", "port: eighty");
    assert_eq!(
        error("x.yaml", &format!("{good}---\n{bad}")),
        "x.yaml: Service default/b: document 2, line 17: spec.ports[0].port: invalid type: string \"eighty\", \
         expected i32 at line 17 column 11"
    );
    let broken = error("x.yaml", "apiVersion: v1\nkind: [Service\n---\n");
    assert!(broken.starts_with("x.yaml: document 1: ") && broken.contains("line 3"), "{broken}");
    assert_eq!(
        error("x.yaml", "apiVersion: v1\nkind: Service\nmetadata: {}\n"),
        "x.yaml: document 1: a Service without metadata.name"
    );
    assert!(error("x.yaml", "just words").contains("document 1: not a Kubernetes object"));
    assert!(error("x.json", "{\"kind\": ").starts_with("x.json: EOF"));
}

fn texts<const N: usize>(
    files: [(&str, &str); N],
) -> std::collections::BTreeMap<Arc<str>, Result<String, String>> {
    files.into_iter().map(|(name, text)| (Arc::from(name), Ok(text.to_owned()))).collect()
}

/// A short form of events: `+a` for a new or changed object, `-a` for a deleted one.
fn short(events: &[Event]) -> Vec<String> {
    let notices = |file: &str, notices: &[lb_userspace::objects::notice::Notice]| match notices {
        [] => format!("{file}: whole"),
        notices => notices.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    let events = events.iter().filter_map(|event| match event {
        Event::Service(Change::Apply(service)) => Some(format!("+{}", service.name.name)),
        Event::Service(Change::Delete(name)) => Some(format!("-{}", name.name)),
        Event::Service(Change::Init) => Some("list".to_owned()),
        Event::Service(Change::InitDone) => Some("end".to_owned()),
        Event::File { file, notices: list } => Some(notices(file, list)),
        _ => None,
    });
    events.collect()
}

#[test]
fn only_objects_that_changed_are_reported() {
    let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let mut folder = Folder::default();
    assert_eq!(short(&folder.update(texts([("1.yaml", &a), ("2.yaml", &b)]))), ["list", "+a", "+b", "end"]);
    assert_eq!(folder.update(texts([("1.yaml", &a), ("2.yaml", &b)])), []);
    let moved = service("b", "10.96.0.3");
    assert_eq!(short(&folder.update(texts([("1.yaml", &a), ("2.yaml", &moved)]))), ["+b"]);
    assert_eq!(short(&folder.update(texts([("2.yaml", &moved)]))), ["-a"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_objects() {
    let a = service("a", "10.96.0.1");
    let mut folder = Folder::default();
    folder.update(texts([("1.yaml", &a)]));
    let told = short(&folder.update(texts([("1.yaml", "kind: [")])));
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("; its last good objects stay in force"), "{told:?}");
    assert_eq!(folder.update(texts([("1.yaml", "kind: [")])), [], "the error is reported once");
    assert_eq!(short(&folder.update(texts([("1.yaml", &a)]))), ["1.yaml: whole"]);
}

#[test]
fn a_file_broken_at_first_holds_the_first_list_back() {
    let a = service("a", "10.96.0.1");
    let mut folder = Folder::default();
    let told = short(&folder.update(texts([("1.yaml", &a), ("2.yaml", "kind: [")])));
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("2.yaml: ") && told[0].ends_with("; nothing is applied until this is corrected")
    );
    let told = short(&folder.update(texts([("1.yaml", &a), ("2.yaml", "")])));
    assert_eq!(told, ["2.yaml: whole", "list", "+a", "end"]);
}

#[test]
fn the_same_object_in_two_files_is_an_error_and_the_first_file_counts() {
    let (first, second) = (service("a", "10.96.0.1"), service("a", "10.96.0.2"));
    let mut folder = Folder::default();
    let told = short(&folder.update(texts([("1.yaml", &first), ("2.yaml", &second)])));
    let double = "2.yaml: Service default/a: is also defined in 1.yaml, and that definition counts";
    assert_eq!(told, [double, "list", "+a", "end"]);
    assert_eq!(short(&folder.update(texts([("2.yaml", &second)]))), ["2.yaml: whole", "+a"]);
}

#[test]
fn a_folder_is_loaded_at_once_or_its_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), service("a", "10.96.0.1")).unwrap();
    fs::write(dir.path().join(".hidden.yaml"), "kind: [").unwrap();
    fs::write(dir.path().join("notes.txt"), "kind: [").unwrap();
    let (tables, notices) =
        view::files::tables_from_manifests(dir.path(), view::files::Viewpoint::named("n1")).unwrap();
    assert_eq!((services::of_tables(&tables).len(), notices.len()), (1, 1));
    fs::write(dir.path().join("b.yaml"), "kind: [").unwrap();
    fs::write(dir.path().join("c.yaml"), [0xff]).unwrap();
    let error = manifests::load_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("b.yaml: document 1") && error.contains("c.yaml: cannot be read"), "{error}");
    assert!(manifests::load_dir(&dir.path().join("none")).is_err());
}

/// Collects events until the short form of one of them contains `wanted`.
fn wait_for(events: &mut mpsc::Receiver<Event>, wanted: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Vec::new();
    runtime.block_on(async {
        while !seen.iter().any(|event: &String| event.contains(wanted)) {
            let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("no {wanted} after {seen:?}"));
            seen.extend(short(&[event.expect("the watch continues")]));
        }
    });
    seen
}

fn write(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).unwrap();
}

#[test]
fn a_folder_is_followed_through_writes_renames_and_removals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    write(path, "a.yaml", &service("a", "10.96.0.1"));
    let (sender, mut events) = mpsc::channel(64);
    let watch = manifests::watch(path.to_owned(), sender).unwrap();
    wait_for(&mut events, "end");
    write(path, "b.yaml", &service("b", "10.96.0.2"));
    wait_for(&mut events, "+b");
    write(path, ".b.swp", &service("b", "10.96.0.3"));
    fs::rename(path.join(".b.swp"), path.join("b.yaml")).unwrap();
    wait_for(&mut events, "+b");
    write(path, "b.yaml", "kind: [");
    wait_for(&mut events, "last good objects stay");
    write(path, "a.yaml", "");
    wait_for(&mut events, "is empty");
    write(path, "b.yaml", "---\n");
    wait_for(&mut events, "-b");
    fs::remove_file(path.join("a.yaml")).unwrap();
    wait_for(&mut events, "-a");
    drop(watch);
    assert!(events.blocking_recv().is_none(), "a dropped watch ends");
}

/// The kubelet swaps a link named `..data`; the files are links that lead through it.
#[test]
fn a_config_map_that_is_swapped_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let fill = |version: &str, ip: &str| {
        fs::create_dir(path.join(version)).unwrap();
        write(path, &format!("{version}/a.yaml"), &service("a", ip));
        std::os::unix::fs::symlink(version, path.join("..tmp")).unwrap();
        fs::rename(path.join("..tmp"), path.join("..data")).unwrap();
    };
    fill("..one", "10.96.0.1");
    std::os::unix::fs::symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let (sender, mut events) = mpsc::channel(64);
    let _watch = manifests::watch(path.to_owned(), sender).unwrap();
    wait_for(&mut events, "end");
    fill("..two", "10.96.0.2");
    wait_for(&mut events, "+a");
}

#[test]
fn a_folder_that_vanishes_keeps_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifests");
    fs::create_dir(&path).unwrap();
    write(&path, "a.yaml", &service("a", "10.96.0.1"));
    let (sender, mut events) = mpsc::channel(64);
    let watch = manifests::watch(path.clone(), sender).unwrap();
    wait_for(&mut events, "end");
    assert!(watch.progress.age(Kind::Service).is_some() && watch.progress.fault(Kind::Service).is_none());
    fs::rename(&path, dir.path().join("away")).unwrap();
    let seen = wait_for(&mut events, "the folder cannot be read");
    assert!(!seen.contains(&"-a".to_owned()), "{seen:?}");
    let fault = watch.progress.fault(Kind::Service).unwrap();
    assert!(fault.starts_with("the folder cannot be read"), "{fault}");
    fs::rename(dir.path().join("away"), &path).unwrap();
    write(&path, "b.yaml", &service("b", "10.96.0.2"));
    wait_for(&mut events, "+b");
    assert_eq!((watch.progress.fault(Kind::Service), watch.progress.failing(Kind::Service)), (None, None));
}
