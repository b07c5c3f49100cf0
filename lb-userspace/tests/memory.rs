//! The heap memory of the pure middle for a large cluster, and its peak at the start.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lb_userspace::model::Model;
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::service::Service;
use lb_userspace::objects::slice::Slice;
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::tables::Tables;
use serde_json::json;

/// Counts the requested bytes; the overhead of the allocator comes on top.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: `System` does the work; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: The promise of the caller is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: The promise of the caller is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

fn service(number: usize) -> Service {
    let object = json!({
        "metadata": {
            "namespace": format!("team-{}", number % 50), "name": format!("service-{number}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "clusterIP": format!("10.96.{}.{}", number / 250, number % 250 + 1),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    });
    Service::new(serde_json::from_value(object).unwrap(), None)
}

fn slice(number: usize, endpoints: usize) -> Slice {
    let endpoints: Vec<_> = (0..endpoints)
        .map(|index| {
            let pod = number * endpoints + index;
            json!({
                "addresses": [format!("10.{}.{}.{}", 128 + pod / 62_500, pod / 250 % 250, pod % 250 + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}.example.internal", pod % 500),
                "zone": "zone-a",
            })
        })
        .collect();
    let object = json!({
        "metadata": {
            "namespace": format!("team-{}", number % 50), "name": format!("service-{number}-x7k2p"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    Slice::new(serde_json::from_value(object).unwrap(), None)
}

fn fill(model: &mut Model, services: usize, endpoints: usize) {
    for event in [Event::Service(Change::Init), Event::Slice(Change::Init), Event::Node(Change::Init)] {
        model.apply(event);
    }
    for number in 0..services {
        model.apply(Event::Slice(Change::Apply(slice(number, endpoints))));
        model.apply(Event::Service(Change::Apply(service(number))));
    }
    for event in
        [Event::Service(Change::InitDone), Event::Slice(Change::InitDone), Event::Node(Change::InitDone)]
    {
        model.apply(event);
    }
}

/// The bytes that the model and the planner keep, and the peak while they were built.
fn measure(services: usize, endpoints: usize) -> [usize; 3] {
    let start = live();
    PEAK.store(start, Ordering::Relaxed);
    let mut model = Model::new("node-1");
    fill(&mut model, services, endpoints);
    let desired = model.desired();
    assert_eq!(desired.services.len(), services);
    let before = live();
    let mut planner = Planner::restore(Tables::default(), Limits::default());
    let plan = planner.plan(desired);
    assert!(plan.notices.is_empty() && plan.ops.len() > services * (endpoints + 4));
    drop(plan);
    let batch = planner.pending().unwrap();
    planner.reclaim(batch);
    let peak = PEAK.load(Ordering::Relaxed) - start;
    let both = live();
    drop(planner);
    let model_alone = live() - start;
    println!("{services} x {endpoints}: desired {} KiB", (before - start - model_alone) / 1024);
    [model_alone, both - start - model_alone, peak]
}

/// A single test, because the counters belong to the process.
#[test]
fn a_large_cluster_fits() {
    for (services, endpoints, limits) in [(10_000, 2, [14, 11, 45]), (1_000, 100, [10, 17, 46])] {
        let bytes = measure(services, endpoints);
        let kib = bytes.map(|bytes| bytes / 1024);
        println!(
            "{services} x {endpoints}: model {} KiB, planner {} KiB, peak {} KiB",
            kib[0], kib[1], kib[2]
        );
        let fits = bytes.iter().zip(limits).all(|(bytes, mib)| *bytes <= mib << 20);
        assert!(fits, "{kib:?} KiB of model, planner and peak exceed {limits:?} MiB");
    }
}
