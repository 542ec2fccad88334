//! From a one-time token to a certificate: the key is made here and never leaves this machine.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::{CreateUser, Login};
use crate::cloud::{Cloud, Refused};
use crate::output::{Output, table, text};
use crate::profile::{Home, Profile};

pub async fn login(home: &Home, name: &str, login: &Login, out: &Output) -> Result<()> {
    let ca_pem = std::fs::read(&login.ca)
        .with_context(|| format!("cannot read the root certificate {}", login.ca.display()))?;
    let token = read_token(&login.token_file)?;
    let profile = enrol(&login.cloud, &ca_pem, &token).await?;
    finish(home, name, &profile, out).await
}

pub async fn create_user(
    home: &Home,
    profile: &Profile,
    cloud: &Cloud,
    create: &CreateUser,
    out: &Output,
) -> Result<()> {
    if let Some(name) = &create.save_profile
        && home.exists(name)?
    {
        bail!("profile '{name}' exists already; choose another name for --save-profile");
    }
    let mut request = json!({
        "role": create.role.word(),
        "company": create.company,
        "username": create.username,
    });
    if !create.email.is_empty() {
        request["email"] = json!(create.email);
    }
    let created = cloud.post("users/", &request).await.context("cannot create the user")?;
    let Some(name) = &create.save_profile else {
        return out.show(&created, |user| {
            format!(
                "user {} created; one-time token (shown once):\n{}",
                text(user, "/id"),
                text(user, "/token")
            )
        });
    };
    let token = created["token"].as_str().context("the cloud created the user but sent no token")?;
    let enrolled = enrol(&profile.cloud, &profile.ca_pem, token).await?;
    finish(home, name, &enrolled, out).await
}

pub async fn whoami(cloud: &Cloud, out: &Output) -> Result<()> {
    let me = cloud.get("users/me/").await?;
    out.show(&me, describe)
}

async fn finish(home: &Home, name: &str, profile: &Profile, out: &Output) -> Result<()> {
    let dir = home.save(name, profile)?;
    let me =
        Cloud::connect(profile)?.get("users/me/").await.context("the new certificate was not accepted")?;
    out.progress(&format!("credentials saved in {}", dir.display()));
    out.show(&me, describe)
}

async fn enrol(cloud: &str, ca_pem: &[u8], token: &str) -> Result<Profile> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
    // The cloud fills in subject and names from the account behind the token.
    let csr = rcgen::CertificateParams::default().serialize_request(&key).context("cannot make a request")?;
    let answer = Cloud::anonymous(cloud, ca_pem)?
        .post_with_token("user-certificates/", token, &json!({ "csr": csr.pem()? }))
        .await
        .map_err(|error| {
            let refused = error.is::<Refused>();
            if refused { error.context("the token was not accepted; each token works once") } else { error }
        })?;
    let chain = answer["certificate"].as_str().context("the cloud's answer holds no certificate")?;
    Ok(Profile {
        cloud: cloud.to_owned(),
        ca_pem: ca_pem.to_vec(),
        chain_pem: chain.as_bytes().to_vec(),
        key_pem: key.serialize_pem().into_bytes(),
    })
}

fn read_token(path: &Path) -> Result<String> {
    let mut token = String::new();
    let bounded: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(
            std::fs::File::open(path).with_context(|| format!("cannot read the token {}", path.display()))?,
        )
    };
    bounded.take(4096).read_to_string(&mut token).context("the token file is no text")?;
    let token = token.trim();
    if token.is_empty() {
        bail!("the token file {} is empty", path.display());
    }
    Ok(token.to_owned())
}

fn describe(me: &Value) -> String {
    let company = [text(me, "/oem/title"), text(me, "/service_provider/title")].concat();
    table(
        &["USER", "ROLE", "COMPANY", "EMAIL"],
        &[vec![text(me, "/username"), text(me, "/role"), company, text(me, "/email")]],
    )
}
