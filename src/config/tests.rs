//! Each message, the order of strength, and the example file.

use super::fields::FIELDS;
use super::*;

struct Setup {
    sources: Sources,
    dir: tempfile::TempDir,
}

fn setup(file: &str) -> Setup {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, file).expect("written");
    let sources = Sources {
        config_file: Some(path),
        home: Some(dir.path().to_owned()),
        hostname: Some("Laptop-1.example.net".into()),
        ..Sources::default()
    };
    Setup { sources, dir }
}

impl Setup {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.insert(name.into(), value.into());
        self
    }

    fn flag(mut self, path: &'static str, value: &str) -> Self {
        self.sources.flags.insert(path, FlagValue::Text(value.into()));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.sources)
    }

    fn config(&self) -> Config {
        self.load().map_err(|error| error.to_string()).expect("valid").config
    }

    /// The problems, with the directory's random name taken out.
    fn problems(&self) -> String {
        let error = self.load().expect_err("problems").to_string();
        error.replace(&self.dir.path().display().to_string(), "DIR")
    }
}

#[test]
fn nothing_set_gives_the_defaults() {
    let setup = setup("");
    let config = setup.config();
    assert_eq!(config.name, "Laptop-1");
    assert_eq!((config.port, config.gossip_port), (11451, 11450));
    assert_eq!(config.bind.to_string(), "127.0.0.1");
    assert_eq!(config.data_dir, setup.dir.path().join(".atmosphere"));
    assert_eq!(config.mesh.admit, Admit::Private);
    assert!(!config.no_mdns && !config.no_probe && config.backends.is_empty());
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let file = "port = 1\ngossip_port = 2\nname = \"file\"\nseed_peers = [\"a:1\", \"b:2\"]\n[mesh]\nname = \"m\"\n";
    let setup = setup(file)
        .env("ATMOSPHERE_GOSSIP_PORT", "20")
        .env("ATMOSPHERE_NAME", "env")
        .env("ATMOSPHERE_SEED_PEERS", "c:3, d:4")
        .env("ATMOSPHERE_MESH_NAME", "")
        .flag("name", "flag");
    let loaded = setup.load().expect("valid");
    let config = &loaded.config;
    assert_eq!((config.port, config.gossip_port, config.name.as_str()), (1, 20, "flag"));
    assert_eq!(
        config.seed_peers.iter().map(Seed::as_str).collect::<Vec<_>>(),
        ["c:3", "d:4"],
        "a stronger list replaces a weaker one"
    );
    assert_eq!(config.mesh.name, "m", "an empty variable counts as not set");
    assert_eq!(loaded.origins["name"], Origin::Flag("--name".into()));
    assert_eq!(loaded.origins["gossip_port"], Origin::Environment("ATMOSPHERE_GOSSIP_PORT".into()));
    let Origin::File { line, .. } = &loaded.origins["mesh.name"] else { panic!("from the file") };
    assert_eq!(*line, Some(6));
}

#[test]
fn the_documented_variable_beats_its_short_form() {
    let both = setup("").env("RUST_LOG", "debug").env("ATMOSPHERE_LOG", "warn").config();
    assert_eq!(both.log.filter, "warn");
    assert_eq!(setup("").env("RUST_LOG", "debug").config().log.filter, "debug");
    assert_eq!(setup("").env("ATMOSPHERE_BACKEND", "http://a:1").config().backends.len(), 1);
}

#[test]
fn the_file_is_found_in_the_data_directory() {
    let mut setup = setup("");
    let home = setup.dir.path().join("elsewhere");
    std::fs::create_dir(&home).expect("made");
    std::fs::write(home.join("config.toml"), "port = 7").expect("written");
    setup.sources.config_file = None;
    assert_eq!(setup.config().port, 11451, "no file there is no error");
    let setup = setup.env("ATMOSPHERE_HOME", &home.display().to_string());
    assert_eq!(setup.config().port, 7);
    let setup = setup.env("ATMOSPHERE_CONFIG", "/nonexistent/c.toml");
    let error = setup.load().expect_err("named, and not there").to_string();
    assert!(error.starts_with("cannot read the configuration file /nonexistent/c.toml"), "{error}");
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    let error = setup("port = 1\nname = = 2\n").problems();
    assert!(error.starts_with("DIR/config.toml:2:8 is not valid TOML: "), "{error}");
}

#[test]
fn every_problem_is_told_at_once() {
    let file = r#"
prot = 1
name = "a@b"
port = "banana"
gossip_port = 70000
bind = "example.net"
gossip_bind = []
seed_peers = ["10.0.0.7", "nas:11450", "http://nas:11451"]
no_mdns = "perhaps"
data_dir = 3
colour = true

[mesh]
admit = "friends"
advert_ttl = "60"
external_addresses = ["a:1", "/ip4/203.0.113.5/udp/1", "/dns4/home.example.net/tcp/1"]
port = 3
upnp = 2

[api]
max_body = "32 parsecs"
max_concurrency = 0
max_connections = 0
header_timeout = "0s"
request_timeout = "soon"
allowed_origins = ["localhost"]
drain_limit = -1

[router.aliases]
best = []
auto = "a"
me = "me"
odd = 3
none = {}
two = { models = "a", kinds = "llm/code" }

[router.aliases.quick]
kind = ["llm/code"]
kinds = ["llm/coder", "code"]
features = ["tool", "streaming"]
modalities = ["images"]
prefer = "speed"

[provider]
queue = -1
concurrency = 5000

[embedder]
kind = "magic"

[log]
filter = "atmosphere=loud"
format = "xml"

[cache]
mode = "always"
size = "1B"
answers = 0
ttl = "0s"
"#;
    let problems = setup(file).env("ATMOSPHERE_NO_PROBE", "maybe").flag("mesh.relay", "x").problems();
    insta::assert_snapshot!(problems);
}

#[test]
fn every_problem_of_a_backend_is_told() {
    let file = r#"
[[backends]]
url = "ftp://gpu"

[[backends]]
kind = "olama"
key = "sk-secret"
key_env = "NOT_SET"
concurrency = 0
modells = ["a"]

[[backends]]
url = "http://me:sk-secret@gpu:8080/v1?x=1"

[[backends]]
url = "http://gpu:1"

[[backends]]
url = "http://gpu:1"

[[backends]]
url = "http://token@gpu:2"
"#;
    let problems = setup(file).problems();
    assert!(!problems.contains("sk-secret"), "{problems}");
    insta::assert_snapshot!(problems);
}

#[test]
fn settings_are_judged_together() {
    for (file, expected) in [
        ("port = 5\ngossip_port = 5", "port = 5 (DIR/config.toml:1): the same as gossip_port"),
        ("ollama_port = 11451", "ollama_port = 11451 (DIR/config.toml:1): the same as port"),
        ("ollama_port = 11450", "ollama_port = 11450 (DIR/config.toml:1): the same as gossip_port"),
        ("port = 11450", "port = 11450 (DIR/config.toml:1): the same as gossip_port"),
        ("gossip_port = 11451", "gossip_port = 11451 (DIR/config.toml:1): the same as port"),
        ("bind = \"0.0.0.0\"", "bind = 0.0.0.0 (DIR/config.toml:1): others can reach this address"),
        (
            "[embedder]\nkind = \"onnx\"",
            "embedder.kind = \"onnx\" (DIR/config.toml:2): an ONNX embedder needs its model",
        ),
        ("[embedder]\ndir = \"/nonexistent\"", "embedder.dir = \"/nonexistent\" (DIR/config.toml:2): not a directory"),
        ("data_dir = \"~/config.toml\"", "data_dir = \"DIR/config.toml\" (DIR/config.toml:1): a file"),
        ("[api]\nkeys = [\"short\"]", "api.keys (DIR/config.toml:2): a key has fewer than 8 characters"),
        ("[api]\nkeys_file = \"/nonexistent\"", "api.keys_file = \"/nonexistent\" (DIR/config.toml:2): cannot be read"),
        ("mesh = 3", "mesh (DIR/config.toml:1): must be a table"),
        ("backends = 3", "backends = 3 (DIR/config.toml:1): not a list"),
    ] {
        let problems = setup(file).problems();
        assert!(problems.contains(expected), "{file}\n{problems}");
        assert!(problems.starts_with("the configuration has a problem:"), "one problem, and not more: {problems}");
    }
}

#[test]
fn a_second_opinion_has_a_limit_or_is_off() {
    let config = |line: &str| setup(&format!("[router]\n{line}")).config().router;
    for (value, ms) in [("\"off\"", 0), ("false", 0), ("\"0s\"", 0), ("\"40ms\"", 40), ("\"2s\"", 2000)] {
        let limit = config(&format!("second_opinion = {value}")).second_opinion;
        assert_eq!(limit, Duration::from_millis(ms), "{value}");
    }
    assert_eq!(config("second_opinion_from = \"self\"").second_opinion_from, OpinionFrom::Itself);
    let both = "[router]\nsecond_opinion = \"1h\"\nsecond_opinion_from = \"cloud\"";
    let problems = setup(both).problems();
    for expected in ["between 0s and 2s; or \"off\" to ask nobody", "give \"mesh\""] {
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
}

#[test]
fn an_open_address_has_three_ways_out() {
    let open = "bind = \"0.0.0.0\"\n";
    let text = setup(open).problems();
    for way in ["api.keys", "bind 127.0.0.1", "--allow-no-auth"] {
        assert!(text.contains(way), "{way}: {text}");
    }
    assert!(setup(open).env("ATMOSPHERE_API_KEYS", "0123456789").load().is_ok());
    assert!(setup(open).env("ATMOSPHERE_ALLOW_NO_AUTH", "1").load().is_ok());
    assert!(setup(open).flag("bind", "localhost").load().is_ok());
    assert!(setup("port = 0\ngossip_port = 0").load().is_ok(), "the system chooses two different ports");
}

#[test]
fn backends_are_urls_or_tables() {
    let file = r#"
backends = ["gpu:8080", "ollama=http://nas:11434", { url = "https://api.openai.com/v1", kind = "openai",
  key_env = "MY_KEY", shared = false, models = ["gpt-5"], concurrency = 4, name = "cloud" },
  "http://user:hunter2@far/v1"]
"#;
    let setup = setup(file).env("MY_KEY", " sk-123 ");
    let config = setup.config();
    let [first, second, third, fourth] = &config.backends[..] else { panic!("four: {:?}", config.backends) };
    assert_eq!((first.url.as_str(), &first.kind), ("http://gpu:8080/", &None));
    assert_eq!((second.url.as_str(), second.kind), ("http://nas:11434/", Some(crate::provider::BackendKind::Ollama)));
    assert_eq!(third.key.as_ref().map(Secret::expose), Some("sk-123"));
    assert_eq!((third.shared, third.concurrency, third.name.as_deref()), (Some(false), Some(4), Some("cloud")));
    assert_eq!(fourth.url.as_str(), "http://far/v1");
    assert_eq!(fourth.key.as_ref().map(Secret::expose), Some("hunter2"));
    let everything = format!("{config:?}{}", setup.load().expect("valid").to_toml());
    assert!(!everything.contains("sk-123") && !everything.contains("hunter2"), "{everything}");
}

#[test]
fn keys_come_from_the_file_too_and_are_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "# mine\nkey-number-one\n\n key-number-two \n").expect("written");
    let file = format!("[api]\nkeys = [\"key-number-zero\"]\nkeys_file = {:?}", keys.display().to_string());
    let loaded = setup(&file).load().expect("valid");
    let keys: Vec<_> = loaded.config.api.keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["key-number-zero", "key-number-one", "key-number-two"]);
    assert!(!format!("{loaded:?}{}", loaded.to_toml()).contains("key-number"));
}

#[test]
fn a_wrong_value_of_a_secret_is_not_shown_either() {
    for file in [
        "[api]\nkeys = [\"sk-very-secret\", \"\"]",
        "[api]\nkeys = { a = \"sk-very-secret\" }",
        "[[backends]]\nurl = \"http://a:1\"\nkey = [\"sk-very-secret\"]",
        "backends = [\"http://me:sk-very-secret@a:1/?x\", \"ftp://me:sk-very-secret@a\"]",
    ] {
        let problems = setup(file).problems();
        assert!(!problems.contains("very-secret"), "{problems}");
    }
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let loaded = setup("").env("ATMOSPHERE_PROT", "1").env("ATMOSPHERE_URL", "x").load().expect("valid");
    assert_eq!(
        loaded.warnings,
        ["the environment variable ATMOSPHERE_PROT is not one of atmosphere's and has no effect; did you mean \
          ATMOSPHERE_PORT?"]
    );
}

#[test]
fn a_machine_without_a_usable_name_is_a_node() {
    for (hostname, name) in [(None, "node"), (Some(""), "node"), (Some("a b@c.d"), "abc"), (Some("böx"), "böx")] {
        let mut setup = setup("");
        setup.sources.hostname = hostname.map(str::to_owned);
        assert_eq!(setup.config().name, name);
    }
}

#[test]
fn the_example_shows_every_setting_with_its_default() {
    setup(Config::example_toml()).load().expect("the example is valid as it is");
    let active: String = Config::example_toml()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut from_example = setup(&active);
    from_example.sources.hostname = None;
    let mut defaults = setup("");
    defaults.sources.hostname = None;
    let mut expected = defaults.config();
    let found = from_example.config();
    expected.data_dir.clone_from(&found.data_dir);
    assert_eq!(found, expected);
    for field in FIELDS {
        let key = field.path.rsplit('.').next().expect("a last part");
        let lines = || active.lines().map(|line| line.trim_start_matches(['#', ' ']));
        assert!(lines().any(|line| line.starts_with(&format!("{key} = "))), "{} is missing", field.path);
    }
}

#[test]
fn the_effective_configuration_is_a_valid_file_with_origins() {
    let wish = "{ kinds = \"llm/code\", features = [\"tools\"], prefer = \"latency\" }";
    let setup = setup(&format!("port = 5\n[router]\naliases = {{ mine = \"a\", quick = {wish} }}"))
        .env("ATMOSPHERE_MESH_ADVERT_TTL", "90s")
        .flag("name", "flagged");
    let loaded = setup.load().expect("valid");
    let text = loaded.to_toml();
    let again = self::setup(&text);
    assert_eq!(again.config(), loaded.config, "what is printed can be used");
    let text = text.replace(&setup.dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text);
}

#[test]
fn the_readme_names_every_setting() {
    let readme = include_str!("../../README.md");
    for field in FIELDS {
        // A table row holds all names of one setting.
        let row = readme.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{}`", field.env[0])));
        let row = row.unwrap_or_else(|| panic!("README.md does not name {}", field.env[0]));
        assert!(row.contains(&format!("`{}`", field.path)), "{}: {row}", field.path);
        assert!(field.flag.is_none_or(|flag| row.contains(&format!("`{flag}`"))), "{}: {row}", field.path);
    }
}
