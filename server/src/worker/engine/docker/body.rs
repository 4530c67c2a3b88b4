//! What a step's container is allowed: the whole of our hardening, in one place. No field of a spec asks for more.

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use common::{Command, Network};
use std::collections::HashMap;

use super::super::{CAPABILITIES, Job, NO_COMMAND, PIDS};
use super::{DEADLINE, INSTANCE, Inner, MADE_BY, STEP};

pub(super) fn container(
    docker: &Inner,
    job: &Job,
    memory_bytes: u64,
    made_by: String,
) -> ContainerCreateBody {
    let spec = &job.spec;
    let words = match &spec.command {
        Command::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Command::Exec(words) => words.clone(),
        Command::Build { .. } => unreachable!("{NO_COMMAND}"),
    };
    // An entrypoint of ours with an empty command leaves nothing of the image's own two.
    let (entrypoint, cmd) = if spec.entrypoint { (None, words) } else { (Some(words), Vec::new()) };
    let labels = [
        (INSTANCE, docker.instance.clone()),
        (STEP, job.step.to_string()),
        (DEADLINE, job.deadline_s.to_string()),
        (MADE_BY, made_by),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value));
    ContainerCreateBody {
        // The image's id, not its name: a tag that moves in between changes nothing.
        image: Some(job.image_digest.clone()),
        entrypoint,
        cmd: Some(cmd),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        labels: Some(HashMap::from(labels)),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(false),
        tty: Some(false),
        // An image's own health check would run beside the test and be counted as its own.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        host_config: Some(host(docker, job, memory_bytes)),
        ..Default::default()
    }
}

fn host(docker: &Inner, job: &Job, memory_bytes: u64) -> HostConfig {
    let spec = &job.spec;
    let memory = i64::try_from(memory_bytes).unwrap_or(i64::MAX);
    let network = match spec.network {
        Network::Egress => "bridge",
        Network::None => "none",
    };
    let mut capabilities: Vec<String> = CAPABILITIES.map(str::to_owned).into();
    capabilities.extend(docker.allow_caps.iter().cloned());
    HostConfig {
        privileged: Some(false),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities),
        pids_limit: Some(i64::from(spec.pids.unwrap_or(PIDS))),
        memory: Some(memory),
        // Equal to the memory: no swap.
        memory_swap: Some(memory),
        nano_cpus: spec.cpus.map(|cpus| (cpus * 1e9).round() as i64),
        shm_size: spec.shm_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        network_mode: Some(network.to_owned()),
        publish_all_ports: Some(false),
        ipc_mode: Some("private".to_owned()),
        // Reaps what a test leaves behind, and passes our signals on.
        init: Some(true),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: Some(HashMap::new()) }),
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..Default::default()
    }
}
