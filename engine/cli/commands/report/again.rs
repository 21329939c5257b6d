//! The section on how to make it again.

use super::subject::Subject;
use crate::render::{self, Again};
use crate::shell::quoted;

impl Subject<'_> {
    /// Command, variables, seeds, machine, versions, and the pipeline as it is.
    pub(super) fn again(&self) -> Again {
        let text = &self.finished.text;
        let end = text.floor_char_boundary(self.sizes.text.min(text.len()));
        let set = &self.finished.set;
        let mut again = Again {
            command: self.command(),
            variables: set.iter().map(|(name, value)| (self.cut(name), self.cut(value))).collect(),
            text: text[..end].to_owned(),
            cut: text.len() - end,
            facts: Vec::new(),
        };
        let mut fact = |name: &str, value: String| {
            if !value.is_empty() {
                again.facts.push((name.to_owned(), value));
            }
        };
        fact("Seeds", self.seeds());
        fact("Stages", self.stages());
        if let Some(run) = self.history.run() {
            fact("Run", run.id.clone());
        }
        if let Some(environment) = self.history.environment() {
            let cores = match environment.cores {
                1 => "1 core".to_owned(),
                cores => format!("{cores} cores"),
            };
            let memory = environment.memory.map(render::bytes).unwrap_or_default();
            let parts = [environment.system.as_str(), &environment.cpu, &cores, &memory];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            fact("Version", format!("paraloom {}", environment.version));
            fact("Machine", parts.join(", "));
            let (threads, jobs) = (environment.threads, environment.jobs);
            let jobs = match jobs {
                1 => "one node at a time".to_owned(),
                jobs => format!("{jobs} nodes at once"),
            };
            fact("Threads", format!("{threads} per node, {jobs}"));
        }
        let backends: std::collections::BTreeSet<_> =
            self.graph.order().iter().map(|node| self.graph.node(*node).device.as_str()).collect();
        fact("Devices", backends.into_iter().collect::<Vec<_>>().join(", "));
        again
    }

    /// As it was written, or what does the same now.
    fn command(&self) -> String {
        if let Some(environment) = self.history.environment()
            && let Some((program, rest)) = environment.command.split_first()
        {
            let name = std::path::Path::new(program).file_name().unwrap_or_default();
            let all =
                std::iter::once(name.to_string_lossy().into_owned()).chain(rest.iter().cloned());
            return all.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
        }
        let mut command = vec!["paraloom".to_owned(), "run".to_owned()];
        command.push(quoted(&self.file.to_string_lossy()));
        for (name, value) in &self.finished.set {
            command.extend(["--set".to_owned(), quoted(&format!("{name}={value}"))]);
        }
        command.join(" ")
    }

    /// "42", or the seed of each node that draws at random where they differ.
    fn seeds(&self) -> String {
        let nodes = self.graph.order().iter().map(|index| self.graph.node(*index));
        let random: Vec<_> = nodes.filter(|node| node.stage.uses_seed).collect();
        let Some(first) = random.first() else { return String::new() };
        if random.iter().all(|node| node.seed == first.seed) {
            return first.seed.to_string();
        }
        let seeds = random.iter().take(40).map(|node| format!("{} {}", node.name, node.seed));
        seeds.collect::<Vec<_>>().join(", ")
    }

    /// The stages that the pipeline uses, with their versions.
    fn stages(&self) -> String {
        let stages = self.graph.order().iter().map(|index| &self.graph.node(*index).stage);
        let named: std::collections::BTreeSet<_> =
            stages.map(|stage| format!("{} {}", stage.name, stage.version)).collect();
        named.into_iter().take(40).collect::<Vec<_>>().join(", ")
    }
}
