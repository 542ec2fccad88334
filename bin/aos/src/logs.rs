//! `aos logs`: what instances or the core components of this node wrote, read from the files or the journal
//! here; neither cloud nor connection is needed.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aos_local_status as local;
use aos_sm::Shown;
use aos_text_table::{elements, text};
use serde_json::Value;

/// Where log files of core components are when the Service Manager does not say.
const COMPONENT_LOGS: &str = "/var/log/aos";

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Query {
    /// Instance ID or its beginning, or the id of an item; the core components when absent.
    pub which: Option<String>,
    /// Goes on with what is written.
    pub follow: bool,
    /// Earliest time: RFC 3339, or how long ago.
    pub since: Option<String>,
    /// Folder of the log files, for a Service Manager that does not run.
    pub log_dir: Option<PathBuf>,
    /// Folder of the daemons' status sockets.
    pub run_dir: Option<PathBuf>,
}

/// Prints the log.
pub fn show(query: &Query) -> Result<()> {
    let since = query.since.as_deref().map(aos_sm::since).transpose()?.unwrap_or(0);
    let run_dir = query.run_dir.clone().unwrap_or_else(local::run_dir);
    let shown = if let Some(which) = &query.which {
        Shown::Instances(instances(query, &run_dir, which)?)
    } else {
        let dir = query.log_dir.clone().unwrap_or_else(|| component_dir(&run_dir));
        if !aos_sm::has_components(&dir) {
            return journal(query, since, &dir);
        }
        Shown::Components(dir)
    };
    let mut out = std::io::stdout().lock();
    aos_sm::print_log(&shown, since, query.follow, &mut out)?;
    Ok(out.flush()?)
}

/// Log files of the instances that are meant.
fn instances(query: &Query, run_dir: &Path, which: &str) -> Result<Vec<PathBuf>> {
    if let Some(dir) = &query.log_dir {
        let files = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let named = |path: &PathBuf| {
            path.extension().is_some_and(|end| end == "log")
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(which))
        };
        let logs: Vec<PathBuf> = files.flatten().map(|file| file.path()).filter(named).collect();
        if logs.is_empty() {
            bail!("no log in {} is named {which}…", dir.display());
        }
        return Ok(logs);
    }
    let status = local::read(run_dir, "sm").with_context(|| {
        format!(
            "the service manager does not answer in {}; with --log-dir its files are read without it",
            run_dir.display()
        )
    })?;
    let logs = found(&status, which);
    if logs.is_empty() {
        let known: Vec<String> = elements(&status["instances"]).iter().map(|one| text(one, "/id")).collect();
        let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
        bail!("no instance of this node is '{which}' or belongs to it: {known}");
    }
    Ok(logs)
}

fn found(status: &Value, which: &str) -> Vec<PathBuf> {
    let meant = |one: &&Value| text(one, "/item") == which || text(one, "/id").starts_with(which);
    let logs = elements(&status["instances"]).iter().filter(meant).map(|one| text(one, "/log"));
    logs.filter(|log| !log.is_empty()).map(PathBuf::from).collect()
}

fn component_dir(run_dir: &Path) -> PathBuf {
    let said = local::read(run_dir, "sm").map(|status| text(&status, "/componentLogs")).unwrap_or_default();
    PathBuf::from(if said.is_empty() { COMPONENT_LOGS } else { &said })
}

/// Lets the journal's own program show what units of ours wrote.
fn journal(query: &Query, since: u64, dir: &Path) -> Result<()> {
    let mut command = std::process::Command::new("journalctl");
    command.args(["--no-pager", "--output=short-iso", "--unit=aos-*"]);
    if since > 0 {
        command.arg(format!("--since=@{since}"));
    }
    if query.follow {
        command.args(["--follow", "--no-tail"]);
    }
    let error = command.exec();
    Err(error).with_context(|| {
        format!("this node has no log files of components in {}, and journalctl cannot be run", dir.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn instances_are_named_by_item_or_by_the_start_of_their_id() {
        let status = json!({"instances": [
            {"id": "33299ef5-ca7c", "item": "i1", "log": "/l/a.log"},
            {"id": "44299ef5-ca7c", "item": "i1", "log": "/l/b.log"},
            {"id": "55299ef5-ca7c", "item": "i2"},
        ]});
        assert_eq!(found(&status, "i1"), [PathBuf::from("/l/a.log"), PathBuf::from("/l/b.log")]);
        assert_eq!(found(&status, "4429"), [PathBuf::from("/l/b.log")]);
        assert!(found(&status, "i2").is_empty() && found(&status, "9").is_empty());
    }

    #[test]
    fn files_are_found_without_a_service_manager() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["33-a.log", "33-a.log.1", "33-a.log.idx", "44-b.log"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let query = Query { log_dir: Some(folder.path().to_owned()), ..Query::default() };
        let none = Path::new("/no/such/folder");
        assert_eq!(instances(&query, none, "33").unwrap(), [folder.path().join("33-a.log")]);
        assert!(instances(&query, none, "55").is_err());
        let error = instances(&Query::default(), none, "33").unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
}
