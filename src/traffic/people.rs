//! Callers and their phone numbers.

pub(super) struct Country {
    code: &'static str,
    areas: &'static [&'static str],
    then: &'static str,
    digits: usize,
    pub(super) languages: &'static [&'static str],
}

/// Numbers that regulators reserve for fiction: 555-01xx of the NANP, and the drama numbers of Ofcom, ARCEP, the
/// Bundesnetzagentur, ACMA and ComReg. Each country has room for a seventh of `CALLERS`.
#[rustfmt::skip]
const COUNTRIES: [Country; 7] = [
    Country { code: "+1", then: "55501", digits: 2, languages: &["en", "es", "en", "zh"], areas: &[
        "202", "206", "212", "213", "214", "303", "305", "312", "314", "404", "415", "503",
        "512", "602", "617", "702", "713", "718", "801", "808", "901", "907", "915", "919"] },
    Country { code: "+1", then: "55501", digits: 2, languages: &["en", "fr"], areas: &[
        "204", "236", "250", "289", "306", "343", "403", "416", "418", "431", "438", "450",
        "506", "514", "519", "581", "587", "604", "613", "647", "705", "709", "778", "819"] },
    Country { code: "+44", then: "", digits: 3, languages: &["en", "en", "pl"],
        areas: &["7700900", "2079460", "1632960", "1614960"] },
    Country { code: "+33", then: "", digits: 4, languages: &["fr"], areas: &["19900", "63998", "46571"] },
    Country { code: "+49", then: "", digits: 3, languages: &["de", "de", "tr"],
        areas: &["3023125", "6990009", "4066969", "2214710"] },
    Country { code: "+61", then: "", digits: 4, languages: &["en", "zh"],
        areas: &["25550", "35550", "75550", "85550"] },
    Country { code: "+353", then: "", digits: 5, languages: &["en", "pl"], areas: &["2091"] },
];

pub(super) fn country(person: u64) -> Option<&'static Country> {
    COUNTRIES.get((person % COUNTRIES.len() as u64) as usize)
}

/// Returns a caller's phone number, which no other caller has.
pub(super) fn number(person: u64) -> String {
    let Some(Country { code, areas, then, digits, .. }) = country(person) else { return String::new() };
    let (nth, areas_len) = (person / COUNTRIES.len() as u64, areas.len() as u64);
    let area = areas.get((nth % areas_len) as usize).unwrap_or(&"");
    let last = (nth / areas_len * 37 + 11) % 10u64.pow(*digits as u32);
    format!("{code}{area}{then}{last:0digits$}")
}
