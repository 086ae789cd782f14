use super::*;

const FOREIGN: &str = "title = \"acme\"\n\
    [[rules]]\nid = 'acme'\ndescription = 'a token'\nregex = 'acme_[0-9a-z]{16}'\nkeywords = ['acme_']\n\
    [[rules]]\nid = 'names'\npath = 'x'\n";

fn run_in(dir: &Path, command: Command) -> Result<String, CliError> {
    let config = dir.join("weir.toml");
    if !config.exists() {
        std::fs::write(&config, "").unwrap();
    }
    let mut out = Vec::new();
    run(&Args { command }, &Context { given: Some(config) }, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn an_imported_file_is_in_force_after_its_pin_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acme rules.toml");
    std::fs::write(&file, FOREIGN).unwrap();
    let rules = dir.path().join("rules");
    let import = || Command::Import { file: file.clone(), out: rules.clone() };
    let said = run_in(dir.path(), import()).unwrap();
    assert!(said.starts_with("1 rules taken over, 1 refused"), "{said}");
    assert!(said.contains("refused: no regex: it finds files by their names\n  names"), "{said}");
    let pin = said.split("to put it in force:\n").nth(1).unwrap();
    std::fs::write(dir.path().join("weir.toml"), pin).unwrap();
    let list = run_in(dir.path(), Command::List { json: true }).unwrap();
    let last: serde_json::Value = serde_json::from_str(list.lines().last().unwrap()).unwrap();
    assert_eq!(last["id"], "acme");
    assert_eq!(last["source"], "rule file: acme");
    assert!(run_in(dir.path(), Command::List { json: false }).unwrap().contains("a token"));
    // Once more, the same file under the same name.
    assert_eq!(run_in(dir.path(), import()).unwrap(), said);
    assert_eq!(std::fs::read_dir(&rules).unwrap().count(), 1);
}

#[test]
fn a_test_shows_what_is_found_but_not_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acme.toml");
    std::fs::write(&file, FOREIGN).unwrap();
    let test = |text: &str| {
        run_in(dir.path(), Command::Test { text: text.to_owned(), rules: Some(file.clone()) })
    };
    let said = test("first\nkey acme_0123456789abcdef end").unwrap();
    let row = said.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(row, "2 5 acme prefixed high acme… (21 bytes)");
    assert!(!said.contains("0123"), "{said}");
    assert_eq!(test("nothing here").unwrap(), "nothing found\n");
}

#[test]
fn both_shapes_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run_in(dir.path(), Command::Check { file: file.clone() })
    };
    assert!(check(FOREIGN).unwrap().starts_with("1 rules taken over"));
    let own = "[[rule]]\nid = 'acme'\ndescription = 'a token'\nvalue = 'acme_[0-9]{8}'\n\
               source = 'https://acme.example/'\n";
    assert_eq!(check(own).unwrap(), "1 rules\n");
    assert!(check("[[rule]]\nid = 'acme'\n").is_err());
    assert!(check("[extend]\nuseDefault = true\n").unwrap_err().to_string().contains("extends"));
    assert!(check("no toml").is_err());
}
