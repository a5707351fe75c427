//! An embedder for owners who have an ONNX model and an ONNX runtime on disk.
//!
//! Any sentence-transformers export works: a directory with `model.onnx` (or `onnx/model.onnx`), `tokenizer.json`,
//! `config.json`, `special_tokens_map.json` and `tokenizer_config.json`, as they are published. The pooling is read from
//! `1_Pooling/config.json` where there is one, and is the mean otherwise.
//!
//! The runtime is a shared library that is loaded at run time (`ORT_DYLIB_PATH`, the model's directory, or where the
//! system keeps libraries), so that the program builds and starts without it. All parts are looked for before the
//! runtime is touched, because it panics when it is missing.
//!
//! A text takes about a millisecond with a small model, and one text is embedded at a time: routing waits for it.
//! Run by callers on a thread that may block when the model is large.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use parking_lot::Mutex;

use super::embedder::{Embedder, normalise};
use crate::capability::limits;

/// Tokens of a text that are looked at. Descriptions and prompts say what they are about in fewer, and the time
/// grows with the square.
const TOKENS: usize = 256;

/// Threads of the runtime. More would take the processor from whoever serves a model on this machine.
const THREADS: usize = 1;

/// Largest model file that is read. Embedding models are far below; this guards against a wrong directory.
const MODEL_BYTES: u64 = 2 << 30;

/// Where systems keep libraries, besides what the environment says.
const LIBRARY_DIRECTORIES: &[&str] = &[
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/homebrew/lib",
];

/// Why the ONNX embedder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The directory lacks a file.
    #[error("the embedding model directory {} has no {file}: put the model's published files there", .directory.display())]
    MissingFile {
        /// The model's directory.
        directory: PathBuf,
        /// What it lacks.
        file: &'static str,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// There is no ONNX runtime.
    #[error(
        "no ONNX runtime: {looked}; install {library} and set ORT_DYLIB_PATH to its path, or put it beside the model"
    )]
    MissingRuntime {
        /// Its file name on this system.
        library: String,
        /// Where it was looked for.
        looked: String,
    },
    /// There is one, and it does not load.
    #[error("the ONNX runtime {} cannot be used: {cause}", .path.display())]
    BadRuntime {
        /// The library.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The runtime cannot run the model.
    #[error("the embedding model in {} cannot be used: {cause}", .directory.display())]
    BadModel {
        /// The model's directory.
        directory: PathBuf,
        /// Why.
        cause: String,
    },
}

/// Embeds with an ONNX model.
pub struct OnnxEmbedder {
    space: Arc<str>,
    dim: usize,
    model: Mutex<TextEmbedding>,
}

impl std::fmt::Debug for OnnxEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxEmbedder").field("space", &self.space).finish_non_exhaustive()
    }
}

impl OnnxEmbedder {
    /// Loads the model in this directory. Reads files and may take seconds.
    ///
    /// # Errors
    ///
    /// When a file or the runtime is missing or cannot be used; the message names it and says what to do.
    pub fn open(directory: &Path) -> Result<Self, OnnxError> {
        let files = Files::find(directory)?;
        let runtime = runtime(directory)?;
        let bad_runtime = |cause: String| OnnxError::BadRuntime { path: runtime.clone(), cause };
        // This loads the library for the whole program; the environment that could be configured is not needed.
        drop(ort::init_from(&runtime).map_err(|error| bad_runtime(error.to_string()))?);

        let onnx = files.read(&files.model)?;
        let pooling = pooling(directory);
        let tokenizer = TokenizerFiles {
            tokenizer_file: files.read(&files.tokenizer)?,
            config_file: files.read(&files.config)?,
            special_tokens_map_file: files.read(&files.special_tokens)?,
            tokenizer_config_file: files.read(&files.tokenizer_config)?,
        };
        let space = fingerprint(&onnx, &tokenizer.tokenizer_file, &pooling);
        let model = UserDefinedEmbeddingModel::new(onnx, tokenizer).with_pooling(pooling);
        let options = InitOptionsUserDefined::new().with_max_length(TOKENS).with_intra_threads(THREADS);
        let bad_model = |cause: String| OnnxError::BadModel { directory: directory.to_owned(), cause };
        let mut model =
            TextEmbedding::try_new_from_user_defined(model, options).map_err(|error| bad_model(error.to_string()))?;

        let dim = try_out(&mut model).map_err(bad_model)?;
        let space = format!("onnx/{space}/{dim}").into();
        tracing::info!(directory = %directory.display(), runtime = %runtime.display(), %space, "ONNX embedder loaded");
        Ok(Self { space, dim, model: Mutex::new(model) })
    }
}

impl Embedder for OnnxEmbedder {
    fn space(&self) -> &Arc<str> {
        &self.space
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        if text.trim().is_empty() {
            return vec![0.0; self.dim];
        }
        let embedded = self.model.lock().embed([text], None);
        match embedded.map(|mut vectors| vectors.pop()) {
            Ok(Some(mut vector)) if vector.len() == self.dim => {
                normalise(&mut vector);
                vector
            }
            Ok(_) => {
                tracing::warn!("the ONNX model gave a vector of another length; the text is matched by its words");
                vec![0.0; self.dim]
            }
            Err(error) => {
                tracing::warn!(%error, "the ONNX model failed on a text; it is matched by its words");
                vec![0.0; self.dim]
            }
        }
    }
}

/// Names what makes vectors comparable: the model, how texts become its tokens, and how its tokens' vectors become one.
fn fingerprint(model: &[u8], tokenizer: &[u8], pooling: &Pooling) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [blake3::hash(model).as_bytes(), blake3::hash(tokenizer).as_bytes()] {
        hash.update(part);
    }
    hash.update(format!("{pooling:?}").as_bytes());
    hash.finalize().to_hex().as_str()[..8].to_owned()
}

/// Two sentences that no embedder holds for the same.
const UNLIKE: [&str; 2] = ["write a program that sorts a list", "what does an alpaca eat in winter?"];

/// From this cosine on, rounding is all that distinguishes two vectors.
const SAME: f32 = 0.9999;

/// The length of the model's vectors, if they are of use: files of two models, put together, are found out here and
/// not by the first question.
fn try_out(model: &mut TextEmbedding) -> Result<usize, String> {
    let embedded = model.embed(UNLIKE, None).map_err(|error| error.to_string())?;
    let [first, second] = &embedded[..] else { return Err("it does not give one vector for each text".into()) };
    let dim = first.len();
    if dim == 0 || dim > limits::VECTOR_DIM || second.len() != dim {
        return Err(format!("its vectors have {dim} components, not 1 to {}", limits::VECTOR_DIM));
    }
    let (mut first, mut second) = (first.clone(), second.clone());
    normalise(&mut first);
    normalise(&mut second);
    let cosine: f32 = first.iter().zip(&second).map(|(a, b)| a * b).sum();
    if !cosine.is_finite() || first.iter().all(|x| *x == 0.0) {
        return Err("its vectors have no direction".into());
    }
    if cosine > SAME {
        return Err("it has the same vector for different texts; is tokenizer.json the model's own?".into());
    }
    if let Some((token, id)) = last_token(model) {
        model.embed([&token], None).map_err(|error| {
            format!(
                "it does not know the token {id} ({token:?}) of tokenizer.json, so that belongs to another model \
                 ({error})"
            )
        })?;
    }
    Ok(dim)
}

/// The token with the highest number that a text can have. A model that takes it takes all.
fn last_token(model: &TextEmbedding) -> Option<(String, u32)> {
    /// Pieces of words do not stand for themselves in a text, and they are often the last.
    const LOOKED_AT: usize = 1000;
    let mut tokens: Vec<(String, u32)> = model.tokenizer.get_vocab(true).into_iter().collect();
    tokens.sort_unstable_by_key(|(_, id)| std::cmp::Reverse(*id));
    let said =
        |token: &str, id| model.tokenizer.encode(token, false).is_ok_and(|encoded| encoded.get_ids().contains(&id));
    tokens.into_iter().take(LOOKED_AT).find(|(token, id)| !token.trim().is_empty() && said(token, *id))
}

/// The files of a model, all of which exist.
struct Files {
    model: PathBuf,
    tokenizer: PathBuf,
    config: PathBuf,
    special_tokens: PathBuf,
    tokenizer_config: PathBuf,
}

impl Files {
    fn find(directory: &Path) -> Result<Self, OnnxError> {
        let find = |file: &'static str| {
            [directory.join(file), directory.join("onnx").join(file)]
                .into_iter()
                .find(|path| path.is_file())
                .ok_or_else(|| OnnxError::MissingFile { directory: directory.to_owned(), file })
        };
        Ok(Self {
            model: find("model.onnx")?,
            tokenizer: find("tokenizer.json")?,
            config: find("config.json")?,
            special_tokens: find("special_tokens_map.json")?,
            tokenizer_config: find("tokenizer_config.json")?,
        })
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, OnnxError> {
        let unreadable = |cause: String| OnnxError::Unreadable { path: path.to_owned(), cause };
        let bytes = path.metadata().map_err(|error| unreadable(error.to_string()))?.len();
        if bytes > MODEL_BYTES {
            return Err(unreadable(format!("{bytes} bytes are more than an embedding model has")));
        }
        std::fs::read(path).map_err(|error| unreadable(error.to_string()))
    }
}

/// What sentence-transformers wrote about pooling, or the mean, which most models use.
fn pooling(directory: &Path) -> Pooling {
    let config = std::fs::read(directory.join("1_Pooling/config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    if config["pooling_mode_cls_token"].as_bool() == Some(true) { Pooling::Cls } else { Pooling::Mean }
}

/// The runtime's library: where the environment says, beside the model, or where libraries are.
fn runtime(model: &Path) -> Result<PathBuf, OnnxError> {
    let library = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return find_runtime(Some(Path::new(&named)), model, &[], library);
    }
    let mut directories: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| std::env::split_paths(&paths).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    directories.extend(LIBRARY_DIRECTORIES.iter().map(PathBuf::from));
    find_runtime(None, model, &directories, library)
}

fn find_runtime(
    named: Option<&Path>,
    model: &Path,
    directories: &[PathBuf],
    library: String,
) -> Result<PathBuf, OnnxError> {
    if let Some(path) = named {
        let looked = || format!("ORT_DYLIB_PATH names {}, which is not there", path.display());
        return if path.is_file() {
            Ok(absolute(path))
        } else {
            Err(OnnxError::MissingRuntime { looked: looked(), library })
        };
    }
    let found = std::iter::once(model)
        .chain(directories.iter().map(PathBuf::as_path))
        .map(|directory| directory.join(&library))
        .find(|path| path.is_file());
    found.map(|path| absolute(&path)).ok_or_else(|| OnnxError::MissingRuntime {
        looked: format!(
            "{library} is neither in {} nor in {}",
            model.display(),
            directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
        library,
    })
}

/// The runtime takes a relative path to be relative to this program.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] =
        ["model.onnx", "tokenizer.json", "config.json", "special_tokens_map.json", "tokenizer_config.json"];

    #[test]
    fn each_missing_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        for missing in NAMES {
            let error = Files::find(directory.path()).err().expect("incomplete").to_string();
            assert!(error.contains(missing) && error.contains(&*directory.path().to_string_lossy()), "{error}");
            std::fs::write(directory.path().join(missing), "{}").expect("written");
        }
        assert!(Files::find(directory.path()).is_ok());
    }

    #[test]
    fn a_model_may_be_in_its_own_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("onnx")).expect("created");
        for name in NAMES {
            let at = if name == "model.onnx" { "onnx/model.onnx" } else { name };
            std::fs::write(directory.path().join(at), "{}").expect("written");
        }
        assert!(Files::find(directory.path()).is_ok());
    }

    #[test]
    fn a_missing_runtime_says_where_it_was_looked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let named = directory.path().join("libnothing.so");
        let library = || "libonnxruntime.so".to_owned();
        let error = find_runtime(Some(&named), directory.path(), &[], library()).expect_err("not there").to_string();
        assert!(error.contains("libnothing.so") && error.contains("ORT_DYLIB_PATH"), "{error}");
        let error = find_runtime(None, directory.path(), &[], library()).expect_err("not there").to_string();
        assert!(error.contains(&*directory.path().to_string_lossy()), "{error}");
        std::fs::write(directory.path().join(library()), "").expect("written");
        let found = find_runtime(None, directory.path(), &[], library()).expect("found");
        assert!(found.is_absolute());
    }

    #[test]
    fn a_runtime_that_is_none_is_an_error_and_no_panic() {
        let directory = tempfile::tempdir().expect("a directory");
        let library = directory.path().join("libonnxruntime.so");
        std::fs::write(&library, "not a library").expect("written");
        assert!(ort::init_from(&library).is_err());
    }

    #[test]
    fn pooling_is_as_the_model_says() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(pooling(directory.path()), Pooling::Mean);
        std::fs::create_dir(directory.path().join("1_Pooling")).expect("created");
        let config = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
        std::fs::write(directory.path().join("1_Pooling/config.json"), config).expect("written");
        assert_eq!(pooling(directory.path()), Pooling::Cls);
    }
}
