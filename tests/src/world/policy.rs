//! A toy NetworkPolicy: a clsact program on the node's end of each pod link, as a CNI would attach it.

use super::netns::Netns;
use super::pod::Pod;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy"));
const PROGRAMS: [(&str, TcAttachType); 2] =
    [("policy_from_pod", TcAttachType::Ingress), ("policy_to_pod", TcAttachType::Egress)];

/// Loads the programs and attaches them to the pods' links, in the node's namespace.
pub(super) fn attach(node: &Netns, pods: &[Pod]) -> Result<Ebpf> {
    node.enter(|| {
        let mut object = Ebpf::load(OBJECT).context("cannot load the policy object (tests/ebpf)")?;
        for pod in pods {
            qdisc_add_clsact(&pod.link).with_context(|| format!("cannot add clsact to {}", pod.link))?;
        }
        for (name, direction) in PROGRAMS {
            let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(|| format!("cannot load {name}"))?;
            for pod in pods {
                keep(
                    attach_one(program, &pod.link, direction)
                        .with_context(|| format!("cannot attach {name} to {}", pod.link))?,
                );
            }
        }
        Ok(object)
    })
}

fn attach_one(
    program: &mut SchedClassifier,
    link: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLink> {
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let id = program.attach_with_options(link, direction, options)?;
    Ok(program.take_link(id)?)
}

/// Leaves a program attached. Dropping the link would detach by interface index in the namespace of the dropping
/// thread, which is the machine's own. The filters end with the world's namespaces.
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}
