// The file identifier. IAM 26.4
use aos_status::AosCode;

use std::fs;

use super::file::read_all as from_files;
use super::*;
use crate::config::IdentifierParams;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(system_id: &str, model: &str, subjects: &str) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(files.params().system_id_path, system_id).unwrap();
        fs::write(files.params().unit_model_path, model).unwrap();
        fs::write(files.params().subjects_path, subjects).unwrap();
        files
    }

    fn params(&self) -> IdentifierParams {
        IdentifierParams {
            system_id_path: self.dir.path().join("id"),
            unit_model_path: self.dir.path().join("model"),
            subjects_path: self.dir.path().join("subjects"),
            ..IdentifierParams::default()
        }
    }
}

#[test]
fn identity_comes_from_files() {
    let files = Files::new(" \tsystem\n\n", " m ; 1.0\n", "one\ntwo\n");
    let identity = from_files(&files.params()).unwrap();
    assert_eq!(identity.system.system_id, "system");
    assert_eq!((identity.system.unit_model.as_str(), identity.system.version.as_str()), ("m", "1.0"));
    assert_eq!(identity.subjects, ["one", "two"]);
}

// IAM 26.4
#[test]
fn models_in_a_wrong_form_end_the_start() {
    let long = format!("m;{}", "1".repeat(33));
    for model in ["m", "", "m;1;2", long.as_str()] {
        let files = Files::new("system", model, "");
        assert_eq!(from_files(&files.params()).unwrap_err().code(), AosCode::Failed, "{model}");
    }
    assert_eq!(unit_model("m;1.0;"), Ok(("m".into(), "1.0".into())), "a trailing separator passes");
    assert_eq!(unit_model("m;"), Ok(("m".into(), String::new())));
    let files = Files::new("system", "m;1", "");
    fs::remove_file(files.params().system_id_path).unwrap();
    assert_eq!(from_files(&files.params()).unwrap_err().code(), AosCode::NotFound);
}

// IAM 26.4
#[test]
fn wrong_subjects_are_no_subjects() {
    let many = "subject\n".repeat(65);
    let files = Files::new("system", "m;1", &many);
    assert!(from_files(&files.params()).unwrap().subjects.is_empty());
    fs::remove_file(files.params().subjects_path).unwrap();
    assert!(from_files(&files.params()).unwrap().subjects.is_empty());
    let files = Files::new("system", "m;1", &"subject\n".repeat(64));
    assert_eq!(from_files(&files.params()).unwrap().subjects.len(), 64);
}
