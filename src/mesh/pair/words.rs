//! The words of spoken codes: plain, two syllables or more where it can be, and no two of them a slip of the tongue apart.
//!
//! The list is part of no contract: both sides use the words as letters. A machine with another list can still
//! read a code to a machine with this one, when the word is in both.

/// All words, in the order of the alphabet. One byte chooses one: eight bits each.
#[rustfmt::skip]
pub const WORDS: [&str; 256] = [
    "acorn", "actor", "album", "amber", "anchor", "apple", "apron", "arrow", "atlas", "autumn", "avocado", "bacon",
    "badge", "bagel", "bamboo", "banjo", "barrel", "basket", "beaver", "bench", "bicycle", "biscuit", "blanket",
    "blossom", "bonfire", "border", "bottle", "branch", "bridge", "bronze", "bucket", "bulldog", "button", "cabin",
    "cactus", "camel", "candle", "canyon", "carpet", "castle", "cedar", "cement", "cherry", "chimney", "circus",
    "clover", "cobalt", "coffee", "comet", "compass", "copper", "coral", "cotton", "cougar", "cradle", "crayon",
    "cricket", "crystal", "cushion", "dagger", "daisy", "dancer", "desert", "diamond", "dolphin", "domino",
    "donkey", "dragon", "drawer", "drummer", "eagle", "easel", "eclipse", "elbow", "elephant", "emerald", "engine",
    "envelope", "evening", "fabric", "falcon", "farmer", "feather", "fiddle", "finger", "flamingo", "flute",
    "forest", "fossil", "fountain", "freckle", "galaxy", "garage", "garlic", "gazelle", "giraffe", "glacier",
    "goblet", "gorilla", "granite", "grape", "guitar", "gymnast", "hammer", "hamster", "harbor", "harvest", "hazel",
    "hedgehog", "helmet", "hexagon", "honey", "horizon", "hotel", "hurdle", "iceberg", "igloo", "insect", "island",
    "ivory", "jacket", "jaguar", "jasmine", "jelly", "jigsaw", "journal", "jukebox", "jungle", "kayak", "kernel",
    "kettle", "kidney", "kingdom", "kitchen", "koala", "ladder", "lagoon", "lamp", "lantern", "lava", "lemon",
    "leopard", "library", "lilac", "lizard", "lobster", "lotus", "magnet", "mango", "maple", "marble", "meadow",
    "melody", "mirror", "mitten", "morning", "mosaic", "muffin", "mushroom", "mustard", "napkin", "nectar",
    "needle", "nickel", "noodle", "november", "nutmeg", "oasis", "ocean", "octopus", "olive", "onion", "opera",
    "orange", "orchid", "otter", "oven", "oyster", "paddle", "palace", "panda", "paper", "parrot", "peanut",
    "pebble", "pelican", "pencil", "pepper", "piano", "pigeon", "pillow", "planet", "plywood", "polar", "popcorn",
    "potato", "prairie", "pumpkin", "puzzle", "pyramid", "quarry", "quilt", "rabbit", "raccoon", "radish", "raven",
    "ribbon", "river", "robin", "rocket", "ruby", "safari", "salmon", "sandal", "satin", "sausage", "scarf",
    "school", "shadow", "shovel", "silver", "skyline", "spinach", "sponge", "squirrel", "stadium", "sugar",
    "sunset", "tailor", "teapot", "thunder", "tiger", "tornado", "tractor", "trumpet", "tulip", "tunnel", "turtle",
    "tuxedo", "umbrella", "valley", "vanilla", "velvet", "village", "violin", "volcano", "waffle", "wagon",
    "walnut", "whisper", "window", "winter", "yellow", "yogurt", "zebra", "zipper",
];

/// The word that this is, or else the one that is most likely meant.
pub fn find(text: &str) -> Result<&'static str, Option<&'static str>> {
    if let Ok(place) = WORDS.binary_search(&text) {
        return Ok(WORDS[place]);
    }
    let near = WORDS.iter().map(|word| (strsim::damerau_levenshtein(word, text), *word)).min();
    Err(near.filter(|(distance, _)| *distance <= 2).map(|(_, word)| word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_plain_in_order_and_no_slip_apart() {
        for (place, word) in WORDS.iter().enumerate() {
            assert!((4..=9).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase()), "{word}");
            for later in &WORDS[place + 1..] {
                assert!(word < later, "{word} and {later}");
                assert!(strsim::levenshtein(word, later) > 1, "{word} and {later}");
            }
        }
    }

    #[test]
    fn a_mistyped_word_is_guessed_and_never_taken() {
        assert_eq!(find("otter"), Ok("otter"));
        assert_eq!(find("oter"), Err(Some("otter")));
        assert_eq!(find("qqqqqqqq"), Err(None));
    }
}
