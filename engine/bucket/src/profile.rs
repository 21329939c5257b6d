//! What the AWS tools read beside the environment: `~/.aws/credentials` and `~/.aws/config`.

use object_store::aws::AmazonS3ConfigKey as Key;

/// Variables of the environment from which credentials come first.
const FIRST: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// Settings that `AmazonS3Builder::from_env` does not find, by the environment.
pub(crate) fn settings(variable: impl Fn(&str) -> Option<String>) -> Vec<(Key, String)> {
    let mut found = Vec::new();
    let file = |name: &str, place: &str| {
        let path = variable(name)
            .map(Into::into)
            .or_else(|| variable("HOME").map(|home| std::path::Path::new(&home).join(place)))?;
        std::fs::read_to_string(path).ok()
    };
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let config = file("AWS_CONFIG_FILE", ".aws/config").unwrap_or_default();
    // The section of a profile is called `profile NAME` in one file and `NAME` in the other.
    let sections = [format!("profile {profile}"), profile.clone()];
    let configured = |key: &str| sections.iter().find_map(|section| member(&config, section, key));
    if FIRST.iter().all(|name| variable(name).is_none()) {
        let credentials =
            file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials").unwrap_or_default();
        let member = |key: &str| member(&credentials, &profile, key).or_else(|| configured(key));
        let keys = [
            (Key::AccessKeyId, "aws_access_key_id"),
            (Key::SecretAccessKey, "aws_secret_access_key"),
            (Key::Token, "aws_session_token"),
        ];
        found.extend(keys.into_iter().filter_map(|(key, name)| Some((key, member(name)?))));
    }
    if variable("AWS_REGION").is_none() && variable("AWS_DEFAULT_REGION").is_none() {
        found.extend(configured("region").map(|region| (Key::Region, region)));
    }
    let given = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint =
        given.iter().find_map(|name| variable(name)).or_else(|| configured("endpoint_url"));
    if let Some(endpoint) = endpoint {
        // Who writes `http://` means it, as with the AWS tools.
        if endpoint.starts_with("http://") {
            found.push((Key::Client(object_store::ClientConfigKey::AllowHttp), "true".to_owned()));
        }
        found.push((Key::Endpoint, endpoint));
    }
    found
}

/// A member of a section of an INI file.
fn member(text: &str, section: &str, key: &str) -> Option<String> {
    let mut is_in = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_in = name.trim() == section;
        } else if let (true, Some((name, value))) = (is_in, line.split_once('='))
            && name.trim() == key
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_where_the_environment_says_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let aws = dir.path().join(".aws");
        std::fs::create_dir(&aws).expect("a new one");
        let credentials = "[default]\naws_access_key_id = A\naws_secret_access_key=S=\n[work]\naws_access_key_id=B\n";
        std::fs::write(aws.join("credentials"), credentials).expect("it is ours");
        let config = "[default]\nregion = eu-west-1\n[profile work]\nregion=us-east-2\nendpoint_url = http://a:1\n";
        std::fs::write(aws.join("config"), config).expect("it is ours");
        let home = dir.path().to_str().expect("text").to_owned();
        let found = |set: &[(&str, &str)]| {
            let variable = |name: &str| match set.iter().find(|(known, _)| *known == name) {
                Some((_, value)) => Some((*value).to_owned()),
                None => (name == "HOME").then(|| home.clone()),
            };
            let settings = settings(variable).into_iter();
            settings.map(|(key, value)| format!("{}={value}", key.as_ref())).collect::<Vec<_>>()
        };
        let default = ["aws_access_key_id=A", "aws_secret_access_key=S=", "aws_region=eu-west-1"];
        assert_eq!(found(&[]), default);
        let work = [
            "aws_access_key_id=B",
            "aws_region=us-east-2",
            "allow_http=true",
            "aws_endpoint=http://a:1",
        ];
        assert_eq!(found(&[("AWS_PROFILE", "work")]), work);
        assert_eq!(found(&[("AWS_ACCESS_KEY_ID", "X"), ("AWS_REGION", "r")]), Vec::<String>::new());
        let other = [
            ("AWS_ENDPOINT_URL", "https://b"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "f"),
            ("AWS_REGION", "r"),
        ];
        assert_eq!(found(&other), ["aws_endpoint=https://b"]);
    }
}
