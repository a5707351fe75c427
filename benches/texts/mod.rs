//! Texts such as owners write about what their machines can do, and prompts such as people ask: many, all different,
//! about a hundred subjects, and the same on every run.

const SUBJECTS: [&str; 96] = [
    "llamas and alpacas",
    "sourdough bread",
    "tax returns",
    "bicycles",
    "the French revolution",
    "tomato plants",
    "knee pain",
    "train timetables",
    "wedding speeches",
    "solar panels",
    "guitar chords",
    "mortgages",
    "Kubernetes clusters",
    "migrating birds",
    "Latin grammar",
    "sleep disorders",
    "chess openings",
    "red wine",
    "quantum mechanics",
    "dog training",
    "rental contracts",
    "watercolour painting",
    "heat pumps",
    "spreadsheets",
    "marathon training",
    "antique clocks",
    "pensions",
    "baby food",
    "volcanoes",
    "road signs",
    "screenplays",
    "bee keeping",
    "network firewalls",
    "diabetes",
    "origami",
    "satellite images",
    "job interviews",
    "camera lenses",
    "coral reefs",
    "medieval castles",
    "espresso machines",
    "hurricanes",
    "sheet music",
    "centrifugal pumps",
    "wind turbines",
    "employment law",
    "kitchen knives",
    "asthma",
    "fishing permits",
    "greenhouses",
    "violins",
    "customs declarations",
    "orchards",
    "telescopes",
    "vaccines",
    "railway signals",
    "pottery glazes",
    "insurance claims",
    "sailing boats",
    "crop rotation",
    "dental care",
    "electric cars",
    "school timetables",
    "migraine",
    "forest fires",
    "sewing patterns",
    "drones",
    "patents",
    "bathroom plumbing",
    "folk dances",
    "lithium batteries",
    "museum archives",
    "cheese making",
    "parcel logistics",
    "allergies",
    "concrete",
    "crossword puzzles",
    "horse riding",
    "tenders",
    "rheumatism",
    "3D printers",
    "hotel bookings",
    "genealogy",
    "welding",
    "river floods",
    "warehouse robots",
    "birth certificates",
    "podcasts",
    "roof insulation",
    "mushrooms",
    "ultrasound images",
    "hiking trails",
    "perfume",
    "accounting ledgers",
    "optical fibres",
    "street lighting",
];

const ASPECTS: [&str; 40] = [
    "the history of",
    "the cost of",
    "mistakes in",
    "new research on",
    "the maintenance of",
    "rules for",
    "the safety of",
    "buying",
    "selling",
    "comparing",
    "the science behind",
    "planning around",
    "measuring",
    "the future of",
    "common questions about",
    "records of",
    "problems with",
    "tools for",
    "teaching people about",
    "the vocabulary of",
    "photographs of",
    "statistics on",
    "advice on",
    "complaints about",
    "designing",
    "insuring",
    "repairing",
    "storing",
    "the economics of",
    "classifying",
    "stories about",
    "documents on",
    "training courses in",
    "suppliers for",
    "testing",
    "regulations on",
    "improving",
    "choosing",
    "the environmental effects of",
    "emergencies with",
];

const SETTINGS: [&str; 20] = [
    "for beginners",
    "in winter",
    "on a small budget",
    "in northern Europe",
    "at a school",
    "for experts",
    "at home",
    "in a large company",
    "before an inspection",
    "without special tools",
    "step by step",
    "for older people",
    "in a small town",
    "after an accident",
    "on a tight schedule",
    "in a hot climate",
    "for a hospital",
    "on an island",
    "for a family of five",
    "during a strike",
];

fn pick<'a>(from: &[&'a str], at: usize) -> &'a str {
    from[at % from.len()]
}

/// What the `n`-th capability is about.
pub fn subject(n: usize) -> &'static str {
    pick(&SUBJECTS, n)
}

/// A sentence of description.
pub fn description(n: usize) -> String {
    let (aspect, other) = (pick(&ASPECTS, n / 96 + n % 7), pick(&ASPECTS, n / 96 * 3 + 11));
    let setting = pick(&SETTINGS, n / 40);
    match n % 4 {
        0 => format!("Answers questions about {} {setting}, above all on {aspect} them.", subject(n)),
        1 => format!("Knows {aspect} {} and {other} them, from the handbooks of number {n}.", subject(n)),
        2 => format!("Helps with {aspect} {} {setting}.", subject(n)),
        _ => format!("An assistant for {}: {aspect} and {other} whatever belongs to it, {setting}.", subject(n)),
    }
}

/// Two topics.
pub fn topics(n: usize) -> Vec<String> {
    vec![subject(n).to_owned(), format!("{} {}", pick(&ASPECTS, n / 96 * 5 + 2), subject(n))]
}

/// The `k`-th example of what it is asked.
pub fn example(n: usize, k: usize) -> String {
    let (aspect, setting) = (pick(&ASPECTS, n / 96 + k * 7), pick(&SETTINGS, n / 96 * 3 + k));
    match (n + k) % 5 {
        0 => format!("What should I know about {aspect} {} {setting}?", subject(n)),
        1 => format!("{aspect} {} {setting}", subject(n)),
        2 => format!("Who can help me with {aspect} {}, {setting}?", subject(n)),
        3 => format!("I need a short report on {aspect} {} {setting}", subject(n)),
        _ => format!("Is there anything new on {aspect} {}?", subject(n)),
    }
}

/// The `n`-th prompt: most are about a subject that somebody knows, some are of no special field, and one in eight is
/// several sentences long. No two are alike.
pub fn prompt(n: usize) -> String {
    let (about, aspect) = (pick(&SUBJECTS, n * 37 + n / 96), pick(&ASPECTS, n * 11 + n / 40));
    let setting = pick(&SETTINGS, n * 7 + n / 20);
    let short = match n % 8 {
        0 => format!("Please tell me more about {aspect} {about} {setting}"),
        1 => format!("my neighbour asked me about {aspect} {about}, what do I say? ({n})"),
        2 => format!("What is the best way of {aspect} {about} {setting}, in {} sentences?", n % 9 + 2),
        3 => format!("Hi, who are you, and can you say something nice for my birthday number {n}?"),
        4 => format!("Write a function number {n} in Rust that sorts a list of {about}"),
        5 => format!("Translate the following into Spanish: {about} {setting} are {aspect} number {n}"),
        _ => format!("I have had trouble with {about} {setting} for {n} days. Does {aspect} them help?"),
    };
    if n % 8 != 7 {
        return short;
    }
    let more = (1..4).map(|k| format!(" It began with {} {}.", pick(&ASPECTS, n + k * 5), pick(&SUBJECTS, n * 5 + k)));
    short + &more.collect::<String>()
}
