//! `atmosphere invite`: a token, a link and a QR code for the next machine. Where nobody looks, only the token.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;

use super::args::InviteArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Output, counted, name};
use super::shapes::Invited;

/// Light border around a QR code, in modules: the standard asks for four, and readers do with two.
const QUIET: usize = 4;

pub(super) async fn run(args: &InviteArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    if args.nearby {
        return super::nearby::offer(args, output).await;
    }
    let client = Client::new(&args.client)?;
    let wanted = json!({"expires": args.expires, "uses": args.uses, "role": args.role});
    let body = client.post("/v1/mesh/invite", &wanted).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let invited: Invited = parse(&client, &body)?;
    let token = name(&invited.token);
    if !output.look.terminal {
        return Ok(output.line(token)?);
    }
    let uses = counted(u64::from(invited.uses), "machine");
    let mesh = output.bold(&name(&invited.mesh.name));
    let until = invited.expires_at.as_deref().unwrap_or("?").to_owned();
    output.line(format!(
        "An invite to the mesh {mesh} for {uses} as {}, until {}.",
        name(&invited.role),
        name(&until)
    ))?;
    output.line("Whoever has it can join: hand it over as you would a key.\n")?;
    match qr(&invited.link, output.look.width) {
        Some(code) => output.line(code)?,
        None => output.line("(the terminal is too narrow for a QR code)\n")?,
    }
    output.line(format!("link   {}\n", name(&invited.link)))?;
    output.line(format!("token  {token}\n"))?;
    output.line("On the other machine:")?;
    Ok(output.line(format!("  {}", output.bold(&format!("atmosphere join {token}"))))?)
}

/// A QR code as text, when it is as wide as the terminal at the most.
fn qr(text: &str, width: Option<u16>) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    if width.is_some_and(|width| code.width() + 2 * QUIET > usize::from(width)) {
        return None;
    }
    // Light on dark, as most terminals are; readers take either.
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_fits_a_usual_terminal_or_is_left_out() {
        let link = format!("atmosphere://join/atmo1{}", "x".repeat(300));
        let code = qr(&link, Some(80)).expect("it fits");
        assert!(code.lines().all(|line| line.chars().count() <= 80) && code.lines().count() < 45, "{code}");
        assert_eq!(qr(&link, Some(40)), None);
    }
}
