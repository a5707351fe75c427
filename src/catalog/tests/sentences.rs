//! Sentences such as people write about what a machine can do: many, different, and the same on every run.

const SUBJECTS: [&str; 48] = [
    "llamas and alpacas",
    "sourdough bread",
    "quicksort in Rust",
    "tax returns",
    "bicycle repair",
    "the French revolution",
    "tomato plants",
    "SQL queries",
    "knee pain",
    "train timetables",
    "wedding speeches",
    "solar panels",
    "guitar chords",
    "mortgage rates",
    "Kubernetes clusters",
    "bird migration",
    "Latin grammar",
    "sleep disorders",
    "chess openings",
    "wine tasting",
    "quantum mechanics",
    "dog training",
    "rental contracts",
    "watercolour painting",
    "heat pumps",
    "Python notebooks",
    "marathon training",
    "antique clocks",
    "crypto wallets",
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
    "spreadsheets",
    "medieval castles",
    "espresso machines",
    "unit tests",
    "hurricanes",
    "sheet music",
    "retirement savings",
];

const ACTIONS: [&str; 24] = [
    "explain",
    "write a short guide to",
    "find mistakes in",
    "compare two kinds of",
    "summarise an article about",
    "plan a weekend around",
    "estimate the cost of",
    "translate a text about",
    "draw a picture of",
    "give advice on",
    "debug problems with",
    "list the history of",
    "teach a child about",
    "predict the future of",
    "choose the best",
    "improve my",
    "sell",
    "photograph",
    "classify",
    "collect data on",
    "answer questions about",
    "invent a story about",
    "measure the quality of",
    "protect",
];

const SETTINGS: [&str; 20] = [
    "for a beginner",
    "in winter",
    "on a small budget",
    "with a table of figures",
    "for a school class",
    "in three sentences",
    "with sources",
    "for an expert",
    "at home",
    "in a big company",
    "before Friday",
    "without special tools",
    "step by step",
    "as an email to my boss",
    "in plain English",
    "for people over sixty",
    "with a checklist",
    "on a mobile phone",
    "according to the law",
    "in the mountains",
];

/// The `n`-th sentence. Every three words of the lists come before any combination comes again.
pub fn sentence(n: usize) -> String {
    // A step without common factors with 48 * 24 * 20 visits each combination once.
    let n = (n % (48 * 24 * 20)) * 7919 % (48 * 24 * 20);
    let (subject, rest) = (n % 48, n / 48);
    format!("{} {} {}", ACTIONS[rest % 24], SUBJECTS[subject], SETTINGS[rest / 24])
}

/// What the `n`-th sentence is about.
pub fn subject(n: usize) -> &'static str {
    SUBJECTS[(n % (48 * 24 * 20)) * 7919 % (48 * 24 * 20) % 48]
}
