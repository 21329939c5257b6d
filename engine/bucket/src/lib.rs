//! Stores in buckets: S3 and what speaks its language, Google Cloud Storage, Azure.
//!
//! [`Bucket`] is the [`Blobs`] of a store, through the crate `object_store`. Credentials come from where the tools of each
//! cloud look for them, and are in no message.

mod profile;

use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Name;
use object_store::{
    ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode,
    PutPayload, RetryConfig, UpdateVersion,
};
use paraloom_store::{Blob, Blobs, Listed};
use tokio::runtime::{Builder, Handle};
use url::Url;

/// Files from this length on are uploaded in pieces.
const WHOLE_BYTES: u64 = 16 << 20;
const PIECE_BYTES: usize = 8 << 20;
/// How long a request that fails is tried again.
const RETRY: Duration = Duration::from_mins(1);

/// Whether the value of `--store` is the address of a bucket, and no path.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
}

/// What is below one name of a bucket.
pub struct Bucket {
    url: String,
    prefix: Name,
    objects: Arc<dyn ObjectStore>,
    handle: Handle,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the client, which has credentials.
        f.debug_tuple("Bucket").field(&self.url).finish()
    }
}

impl Bucket {
    /// The bucket at an address such as `s3://BUCKET/PREFIX`, `gs://...` or `az://...`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// What is wrong with the address or the settings, in the user's words.
    pub fn open(url: &str) -> Result<Self, String> {
        let shown = without_secrets(url);
        let wrong = |error: String| format!("`{shown}` is not the address of a store: {error}");
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some()
        {
            let shown = format!(
                "{}://{}{}",
                parsed.scheme(),
                parsed.host_str().unwrap_or_default(),
                parsed.path()
            );
            return Err(format!(
                "the address of the store may not hold credentials or a query: write `{shown}`, and give credentials by the environment"
            ));
        }
        let (scheme, path) =
            ObjectStoreScheme::parse(&parsed).map_err(|_| wrong(FORMS.to_owned()))?;
        let prefix = Name::parse(path).map_err(|error| wrong(error.to_string()))?;
        let text = |value: OsString| value.into_string().ok();
        let variables = std::env::vars_os();
        if let Some(unfit) = unfit(variables.filter_map(|(a, b)| Some((text(a)?, text(b)?)))) {
            return Err(unfit);
        }
        let retry = RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() };
        // Of the TLS of rustls; a second call finds that it is there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
            ObjectStoreScheme::AmazonS3 => {
                let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
                for (key, value) in profile::settings(|name| std::env::var(name).ok()) {
                    builder = builder.with_config(key, value);
                }
                builder.build().map(|store| Arc::new(store) as _)
            }
            ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            ObjectStoreScheme::MicrosoftAzure => MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_retry(retry)
                .with_client_options(ClientOptions::new())
                .build()
                .map(|store| Arc::new(store) as _),
            _ => return Err(wrong(FORMS.to_owned())),
        };
        let objects = objects.map_err(|error| wrong(reason(&error)))?;
        let handle = runtime().map_err(|error| format!("no thread for the store: {error}"))?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), prefix, objects, handle })
    }

    fn name(&self, of: &str) -> Name {
        let parts = of.split('/').filter(|part| !part.is_empty());
        self.prefix.parts().chain(parts.map(Into::into)).collect()
    }

    /// The name of an object relative to the store.
    fn relative(&self, name: &Name) -> String {
        let name: Vec<_> = name.parts().collect();
        let parts = name[self.prefix.parts().count().min(name.len())..].iter();
        parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    }

    /// Waits for a request. Unlike `block_on`, also on a thread of another runtime.
    fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> object_store::Result<T> {
        let (sender, receiver) = channel();
        self.handle.spawn(async move {
            let _ = sender.send(request.await);
        });
        receiver.recv().unwrap_or_else(|_| {
            Err(Error::Generic { store: "bucket", source: "the request was given up".into() })
        })
    }

    fn put_with(&self, name: &str, bytes: &[u8], mode: PutMode) -> object_store::Result<()> {
        let (objects, name) = (Arc::clone(&self.objects), self.name(name));
        let payload = PutPayload::from(bytes.to_vec());
        self.wait(async move { objects.put_opts(&name, payload, mode.into()).await.map(drop) })
    }
}

/// A thread that drives all requests of this process.
fn runtime() -> io::Result<Handle> {
    static HANDLE: std::sync::Mutex<Option<Handle>> = std::sync::Mutex::new(None);
    let mut handle = HANDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let made = runtime.handle().clone();
    std::thread::Builder::new()
        .name("bucket".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    *handle = Some(made.clone());
    Ok(made)
}

impl Blobs for Bucket {
    fn url(&self) -> &str {
        &self.url
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        match self.put_with(name, bytes, PutMode::Create) {
            Ok(()) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_with(name, bytes, PutMode::Overwrite).map_err(|error| failed(&error))
    }

    fn put_file(&self, name: &str, from: &Path) -> io::Result<()> {
        let mut file = File::open(from)?;
        if file.metadata()?.len() < WHOLE_BYTES {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            return self.put(name, &bytes);
        }
        let (objects, name) = (Arc::clone(&self.objects), self.name(name));
        let upload = self.wait(async move { objects.put_multipart(&name).await });
        let mut upload = upload.map_err(|error| failed(&error))?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            if (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            let sent = upload.put_part(piece.into());
            if let Err(error) = self.wait(sent) {
                let _ = self.wait(async move { upload.abort().await });
                return Err(failed(&error));
            }
        }
        let done = self.wait(async move { upload.complete().await });
        done.map(drop).map_err(|error| failed(&error))
    }

    fn replace(&self, name: &str, version: &str, bytes: &[u8]) -> io::Result<bool> {
        match self.put_with(name, bytes, PutMode::Update(to_version(version))) {
            Ok(()) => Ok(true),
            Err(
                Error::Precondition { .. } | Error::NotFound { .. } | Error::AlreadyExists { .. },
            ) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    fn get(&self, name: &str) -> io::Result<Option<Blob>> {
        let (objects, name) = (Arc::clone(&self.objects), self.name(name));
        let found = self.wait(async move {
            let found = objects.get(&name).await?;
            let version = of_version(&found.meta);
            Ok(Blob { version, bytes: found.bytes().await?.to_vec() })
        });
        if_there(found)
    }

    fn get_file(&self, name: &str, to: &Path) -> io::Result<bool> {
        let (objects, name) = (Arc::clone(&self.objects), self.name(name));
        let found = self.wait(async move { Ok(objects.get(&name).await?.into_stream()) });
        let Some(mut stream) = if_there(found)? else { return Ok(false) };
        let mut file = File::create_new(to)?;
        loop {
            let next = self.wait(async move { Ok((stream.try_next().await?, stream)) });
            let (piece, rest) = next.map_err(|error| failed(&error))?;
            let Some(piece) = piece else { break };
            file.write_all(&piece)?;
            stream = rest;
        }
        file.sync_data().map(|()| true)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let (objects, prefix) = (Arc::clone(&self.objects), self.name(prefix));
        let listed: object_store::Result<Vec<ObjectMeta>> =
            self.wait(async move { objects.list(Some(&prefix)).try_collect().await });
        let listed = listed.map_err(|error| failed(&error))?.into_iter().map(|meta| Listed {
            name: self.relative(&meta.location),
            bytes: meta.size,
            modified: Timestamp::from_millisecond(meta.last_modified.timestamp_millis())
                .unwrap_or(Timestamp::UNIX_EPOCH),
        });
        Ok(listed.collect())
    }

    fn list_dirs(&self, prefix: &str) -> io::Result<Vec<String>> {
        let (objects, prefix) = (Arc::clone(&self.objects), self.name(prefix));
        let listed = self.wait(async move { objects.list_with_delimiter(Some(&prefix)).await });
        let listed = listed.map_err(|error| failed(&error))?;
        let name = |dir: &Name| dir.filename().map(str::to_owned);
        Ok(listed.common_prefixes.iter().filter_map(name).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (objects, name) = (Arc::clone(&self.objects), self.name(name));
        if_there(self.wait(async move { objects.delete(&name).await })).map(drop)
    }
}

fn if_there<T>(found: object_store::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error @ Error::NotFound { .. }) if missing_bucket(&error).is_none() => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// What the servers call a bucket that is not there, by which it is told from an object that is not.
const MISSING: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"];

/// The code by which a server says that there is no bucket, if it does.
fn missing_bucket(error: &Error) -> Option<&'static str> {
    let Error::NotFound { source, .. } = error else { return None };
    let text = source.to_string();
    MISSING.into_iter().find(|code| text.contains(code))
}

fn of_version(meta: &ObjectMeta) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}\n{}", part(&meta.e_tag), part(&meta.version))
}

fn to_version(text: &str) -> UpdateVersion {
    let (e_tag, version) = text.split_once('\n').unwrap_or((text, ""));
    let part = |part: &str| (!part.is_empty()).then(|| part.to_owned());
    UpdateVersion { e_tag: part(e_tag), version: part(version) }
}

const FORMS: &str =
    "write s3://, gs:// or az:// with the bucket and a name in it, or the path of a directory";

const NO_CREDENTIALS: &str = "no credentials were found: set those of your cloud in the environment (such as \
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and \
    AZURE_STORAGE_ACCOUNT_KEY), or name a profile by AWS_PROFILE";

fn failed(error: &Error) -> io::Error {
    if let Some(code) = missing_bucket(error) {
        let text = format!("there is no bucket or container of this name ({code})");
        return io::Error::new(ErrorKind::NotFound, text);
    }
    let kind = match error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, reason(error))
}

/// What an error and all that it comes of say, each once, without what may be a secret in addresses.
fn reason(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string();
        if texts.iter().all(|before| !before.contains(&text)) {
            texts.push(text);
        }
        at = error.source();
    }
    let text = texts.join(": ");
    // Where nothing else is said, the client asks the machine itself, which only machines of the cloud answer.
    if ["169.254.169.254", "metadata.google.internal"].iter().any(|host| text.contains(host)) {
        return NO_CREDENTIALS.to_owned();
    }
    let words: Vec<_> = text.split(' ').map(without_secrets).collect();
    words.join(" ").replace(['\n', '\r'], " ")
}

/// A word without the user and the query of the address that is in it, if it is one: they can be a password and a signature.
fn without_secrets(word: &str) -> String {
    let Some((before, address)) = word.split_once("://") else { return word.to_owned() };
    let (address, query) = address.split_once('?').unwrap_or((address, ""));
    // What closes the address, such as a bracket, stays.
    let end = query.find([')', '"', '\'', ',']).map_or("", |at| &query[at..]);
    let host_ends = address.find('/').unwrap_or(address.len());
    let host = address[..host_ends].rfind('@').map_or(0, |at| at + 1);
    format!("{before}://{}{end}", &address[host..])
}

/// A variable of the environment that cannot be sent in a header, where it would end up, and what is wrong with it.
fn unfit(variables: impl Iterator<Item = (String, String)>) -> Option<String> {
    let is_sent = |name: &str| {
        let is_of_a_cloud =
            ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|cloud| name.starts_with(cloud));
        is_of_a_cloud
            && (name.contains("KEY") || name.ends_with("TOKEN"))
            && name != "GOOGLE_SERVICE_ACCOUNT_KEY"
    };
    let is_unfit = |value: &str| !value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let (name, value) = variables.filter(|(name, value)| is_sent(name) && is_unfit(value)).min()?;
    let what = if value.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        "ends with a line break"
    } else {
        "holds letters that no key has"
    };
    Some(format!("the value of {name} {what}: set it again without"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_path() {
        for url in ["s3://bucket/a", "gs://b", "az://c/d", "https://x.blob.core.windows.net/c"] {
            assert!(is_url(url), "{url}");
        }
        for path in ["store", "/a/b", "C:/x", "file:///a", "s3:/bucket", ""] {
            assert!(!is_url(path), "{path}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_in_words() {
        let refused = |url: &str| Bucket::open(url).map(drop).expect_err(url);
        assert!(
            refused("ftp://host/a").contains("s3://, gs:// or az://"),
            "{}",
            refused("ftp://host/a")
        );
        assert!(refused("s3://").contains("`s3://`"));
        let told = refused("s3://key:secret@bucket/a?x=1");
        assert!(told.contains("write `s3://bucket/a`") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn no_signature_is_in_a_message() {
        let error = io::Error::other("sending to (https://a.b/c?sig=SECRET&x=1), after 3 tries");
        assert_eq!(reason(&error), "sending to (https://a.b/c), after 3 tries");
    }

    #[test]
    fn neither_user_nor_query_of_an_address_is_told() {
        for (told, wanted) in [
            ("http://user:SECRET@host:9/a/b", "http://host:9/a/b"),
            ("http://SECRET@host?a=SECRET", "http://host"),
            ("(https://user:SEC@RET@host/a@b?sig=SECRET)", "(https://host/a@b)"),
            ("http://host/a@b:c", "http://host/a@b:c"),
            ("a@b?c", "a@b?c"),
            ("://", "://"),
            ("s3://user:SECRET@", "s3://"),
        ] {
            assert_eq!(without_secrets(told), wanted);
        }
    }

    #[test]
    fn a_key_that_no_header_can_hold_is_named_and_not_told() {
        let told =
            |name: &str, value: &str| unfit([(name.to_owned(), value.to_owned())].into_iter());
        for name in [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "GOOGLE_BEARER_TOKEN",
        ] {
            for (value, what) in [
                ("HUSH\n", "ends with a line break"),
                ("HUSH\r\n", "ends with a line break"),
                ("HU\nSH", "holds letters"),
                ("HUSHÉ", "holds letters"),
            ] {
                let told = told(name, value).expect("it is unfit");
                assert!(
                    told.contains(name) && told.contains(what) && !told.contains("HU"),
                    "{told}"
                );
            }
            assert_eq!(told(name, "a/B+c= "), None);
        }
        for (name, value) in [
            ("GOOGLE_SERVICE_ACCOUNT_KEY", "{\n}"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/é"),
            ("AWS_PROFILE", "é"),
            ("MY_TOKEN", "é"),
        ] {
            assert_eq!(told(name, value), None, "{name}");
        }
    }

    #[test]
    fn names_are_relative_to_the_store() {
        let bucket = Bucket::open("s3://bucket/pre/fix/").expect("an address");
        let name = bucket.name("results/ab/weights 1.bin");
        assert_eq!(name.as_ref(), "pre/fix/results/ab/weights 1.bin");
        assert_eq!(bucket.relative(&name), "results/ab/weights 1.bin");
        assert_eq!(bucket.url(), "s3://bucket/pre/fix");
        assert!(format!("{bucket:?}").len() < 60);
    }
}
