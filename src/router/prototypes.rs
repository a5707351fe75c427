//! Phrases that stand for what people do with a language model. They are examples of form and not of subject:
//! whoever adds some should keep them apart from the fields that projects have.

use crate::capability::Kind;

/// Kinds and their phrases. Those of `llm/chat` are what a specialist must beat.
pub(super) const ALL: [(Kind, &[&str]); 4] = [
    (Kind::LLM_CHAT, GENERAL),
    (Kind::LLM_CODE, CODE),
    (Kind::LLM_REASONING, REASONING),
    (Kind::LLM_SUMMARIZE, SUMMARIZE),
];

const GENERAL: &[&str] = &[
    "hello",
    "hi, how are you today?",
    "good morning",
    "thank you very much",
    "who are you and what can you do?",
    "tell me a joke",
    "tell me a story",
    "write a poem about autumn",
    "write a short birthday message for my sister",
    "what is the capital of France?",
    "who won the world cup?",
    "what should I cook for dinner tonight?",
    "recommend a good film for the weekend",
    "help me plan a trip to Italy",
    "translate this sentence into Spanish",
    "draft a polite email to my landlord",
    "give me ideas for a gift",
    "what is the meaning of this word?",
    "what is the weather like?",
    "explain how rainbows form",
    "why is the sky blue?",
    "what happened in the French revolution?",
    "give me advice on talking to my boss",
    "let's just chat a little",
    "write a cover letter for a job application",
    "how do I get better sleep?",
    "what do you think about this?",
    "say this in other words",
];

const CODE: &[&str] = &[
    "write a function that sorts a list",
    "implement binary search in Python",
    "write a program in Rust",
    "write a quicksort algorithm in C++",
    "fix the bug in this code",
    "why does this code throw an exception?",
    "refactor this class to use interfaces",
    "explain what this function does",
    "write unit tests for this module",
    "how do I parse JSON in JavaScript?",
    "write an SQL query that joins two tables",
    "write a regular expression that matches email addresses",
    "write a bash script that renames files",
    "the compiler says: cannot borrow as mutable",
    "segmentation fault in my C program",
    "create a React component with TypeScript",
    "how do I make an HTTP request in Go?",
    "TypeError: undefined is not a function",
    "convert this loop into a list comprehension",
    "add type annotations to this Python method",
    "implement a linked list data structure",
    "resolve a git merge conflict",
    "write a Dockerfile for a web server",
    "debug this stack trace",
    "design a REST API endpoint",
    "write CSS to centre a div",
    "complete this code snippet",
    "optimise this algorithm's time complexity",
];

const REASONING: &[&str] = &[
    "solve this equation for x",
    "prove that the square root of two is irrational",
    "prove this theorem by induction",
    "calculate the integral of x squared",
    "what is the probability of drawing two aces?",
    "a train leaves at noon at sixty miles per hour, when does it arrive?",
    "solve this logic puzzle step by step",
    "find the next number in the sequence",
    "how many ways can five people sit in a row?",
    "if all cats are animals and some animals are black, what follows?",
    "think carefully about this riddle before answering",
    "derive the formula for compound interest",
    "what is the derivative of the sine function?",
    "find the flaw in this argument",
];

const SUMMARIZE: &[&str] = &[
    "summarise this text",
    "summarize the following article in three sentences",
    "give me the key points of this document",
    "write a summary of this meeting transcript",
    "shorten this report to one paragraph",
    "tl;dr of this thread",
    "condense this chapter",
    "what are the main takeaways of this paper?",
    "write an abstract for this text",
    "make bullet points of the following notes",
];
