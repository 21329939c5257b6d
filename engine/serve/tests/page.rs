//! The page and its form, as a browser asks for them.

mod common;

use common::{parse, post, serve, settings};

/// The answer to a form, with its head.
fn form(server: &common::Running, body: &str) -> String {
    let request = post(body).replace("/v1/rows", "/").replace("json", "x-www-form-urlencoded");
    server.send(request)
}

#[test]
fn the_page_works_without_scripts() {
    let server = serve(settings());
    let (status, page) = server.get("/");
    assert_eq!(status, 200);
    for needed in [
        "<form method=\"post\" action=\"/\"",
        "<label for=\"field-1\"",
        "name=\"text\"",
        "<button type=\"submit\"",
        "lang=\"en\"",
    ] {
        assert!(page.contains(needed), "{needed}: {page}");
    }
    let body = "text=profit%27s+up%0D%0A%0D%0A%3Cscript%3Ealert(1)%3C%2Fscript%3E&x=y";
    let (status, page) = parse(&form(&server, body).replace("\r\n\r\n&lt;", "\n\n&lt;"));
    assert_eq!(status, 200);
    // The form is as it was filled in, and the rows are there; nothing of them is a part of the page.
    assert!(page.contains("profit&#x27;s up\n\n&lt;script&gt;alert(1)"), "{page}");
    assert!(
        page.contains("<bdi>PROFIT&#x27;S UP</bdi>") && page.contains("2 rows of rows"),
        "{page}"
    );
    assert!(!page.contains("<script>alert") && page.contains("\\u003cscript>alert(1)"), "{page}");
    let table = page.split("<table>").nth(1).expect("a table");
    assert!(
        table.contains("<caption>rows: 2</caption>") && table.contains("<th scope=\"col\""),
        "{table}"
    );
    // Scripts of this server only, and none in the page.
    let scripts: Vec<_> =
        page.split("<script").skip(1).filter_map(|rest| rest.split('>').next()).collect();
    assert_eq!(
        scripts,
        [" type=\"module\" src=\"/page.js\"", " type=\"application/json\" id=\"rows\""]
    );
    assert!(!page.contains("style=\"") && !page.contains(" onclick"), "the policy forbids them");
}

#[test]
fn what_is_wrong_is_said_on_the_page() {
    let server = serve(settings());
    let long = format!("text={}", "a".repeat(600 << 10));
    let many = format!("text={}", "a%0A".repeat(200));
    let cases = [
        ("text=fail", 500, "it cannot be said louder"),
        ("text=", 400, "there are no rows"),
        ("", 400, "there are no rows"),
        ("%ff=%00&text=%zz", 200, "%ZZ"),
        (&long, 413, "bytes at most"),
        (&many, 413, "128 rows at most, not 200"),
    ];
    for (body, expected, said) in cases {
        let (status, page) = parse(&form(&server, body));
        assert_eq!(status, expected, "{page}");
        assert!(page.contains(said) && page.contains("<form "), "{said}: {page}");
        assert_eq!(page.contains("role=\"alert\""), expected != 200, "{page}");
    }
}

#[test]
fn the_page_has_a_strict_policy_and_is_not_kept() {
    let server = serve(settings());
    let get = |path: &str| {
        server.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    };
    for (path, kind) in [
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/favicon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let answer = get(path);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("content-type: {kind}")),
            "{answer}"
        );
    }
    for answer in [get("/"), form(&server, "text=a"), form(&server, "text=fail")] {
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        let policy = head
            .lines()
            .find(|line| line.starts_with("content-security-policy"))
            .unwrap_or_default();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
            "{head}"
        );
        assert!(
            !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
}

#[test]
fn code_for_programs_has_the_address_that_the_client_uses() {
    let server = serve(settings());
    for (headers, origin) in [
        ("Host: localhost:81\r\n", "http://localhost:81"),
        // As a proxy with TLS sends it.
        ("Host: localhost\r\nX-Forwarded-Proto: https\r\n", "https://localhost"),
        ("Host: localhost\r\nX-Forwarded-Proto: javascript\r\n", "http://localhost"),
    ] {
        let page = server.send(format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
        let page = page.replace("&#x2f;", "/");
        assert!(page.contains(&format!("curl {origin}/v1/rows ")), "{headers}: {page}");
        assert!(page.contains(&format!("&quot;{origin}/v1/rows&quot;, body")), "{headers}: {page}");
    }
}
