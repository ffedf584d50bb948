// libltdpolicy: learned policies for speculative decoding. They decide when a draft model stops
// drafting, how many candidates the target verifies, and what to draft from.
//
// A cycle of a sequence: ltd_sequence_begin; where it drafts a tree, ltd_sequence_push_level and
// ltd_sequence_continue in turns; ltd_sequence_verification; ltd_sequence_commit.
//
// All functions return a status. What is wrong is in words at ltd_last_error. Any may be called from
// any thread: calls on one sequence wait for one another. Handles are never used twice: a closed
// one is an error, as is one that was made up. begin, continue and size allocate nothing.


#ifndef LTD_POLICY_H
#define LTD_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Version of this interface. It is raised when a program that was compiled before would be wrong.
#define LTD_POLICY_ABI 1

// Whether a call did what it was asked for.
typedef enum {
  // It did.
  LTD_STATUS_OK = 0,
  // An argument is wrong: a null pointer, text that is not UTF-8, not-a-number, too
  // little room.
  LTD_STATUS_ARGUMENT = 1,
  // The package is damaged, of another version, or of other models.
  LTD_STATUS_PACKAGE = 2,
  // The handle was closed, or never opened.
  LTD_STATUS_HANDLE = 3,
  // Something else has to be called first.
  LTD_STATUS_ORDER = 4,
  // A fault of this library: please report it. The sequence can only be closed. (Where memory
  // runs out, the process ends.)
  LTD_STATUS_FAULT = 5,
} LtdStatus;

// What decides in a package.
typedef enum {
  // A constant setting, which was faster than the policies.
  LTD_KIND_FALLBACK = 0,
  // One policy for each decision.
  LTD_KIND_PAIR = 1,
  // A predictor of what is accepted, and a table of what it costs.
  LTD_KIND_FACTORED = 2,
} LtdKind;

// What a cycle drafts from.
typedef enum {
  // The draft model: a tree.
  LTD_SOURCE_KIND_TREE = 0,
  // What was said before: a chain of tokens. A chain of none is a step of plain decoding.
  LTD_SOURCE_KIND_COPY = 1,
  // Both: a tree, with the most probable tokens of a chain.
  LTD_SOURCE_KIND_MERGED = 2,
} LtdSourceKind;

// What a package is.
typedef struct {
  // What decides.
  LtdKind kind;
  // Continuations of each node, W.
  size_t beam_width;
  // The deepest draft that it may ask for: levels below the first.
  size_t max_depth;
  // The most candidates that it lets the target verify.
  size_t size_limit;
  // Whether it chooses what to draft from.
  bool chooses_source;
} LtdInfo;

// What is known of a run; 0 or null where it is not known.
typedef struct {
  // "cpu" or "cuda".
  const char *device;
  // "f32", "bf16" or "f16".
  const char *dtype;
  // Threads of a CPU.
  size_t threads;
  // Temperature of sampling, 0 is greedy; negative if it is not known.
  double temperature;
} LtdConditions;

// What a cycle drafts from.
typedef struct {
  // Which of the sources.
  LtdSourceKind kind;
  // Tokens to copy at most.
  size_t chain;
} LtdSource;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the interface that this library has: `LTD_POLICY_ABI` of its header.
uint32_t ltd_abi_version(void);

// What was wrong with the latest call of this thread that failed, until the next one that fails.
const char *ltd_last_error(void);

// Loads a package from a folder and checks it. It stays open until `ltd_policy_close`.
//
// # Safety
// `folder` points to text that ends with 0, `policy` to room for a handle.
LtdStatus ltd_policy_open(const char *folder, uint64_t *policy);

// Closes a package. Sequences of it stay open.
LtdStatus ltd_policy_close(uint64_t policy);

// What a package is.
//
// # Safety
// `info` points to room for it.
LtdStatus ltd_policy_info(uint64_t policy, LtdInfo *info);

// Fails unless the package is of models with these SHA-256 sums, in hexadecimal digits; null is
// any.
//
// # Safety
// Each argument is null or points to text that ends with 0.
LtdStatus ltd_policy_check_models(uint64_t policy, const char *target, const char *draft);

// What is different here from the conditions that the package was made for, in words: nothing, an
// empty text, if nothing is known to be. Decisions stay lossless elsewhere, but a constant may be
// faster.
//
// # Safety
// `conditions` points to conditions, their texts end with 0, and `warning` points to room for
// `capacity` bytes.
LtdStatus ltd_policy_warning(uint64_t policy,
                             const LtdConditions *conditions,
                             char *warning,
                             size_t capacity);

// Opens a sequence: its prompt, and the target's first token after it.
//
// # Safety
// `prompt` points to `prompt_length` tokens, `sequence` to room for a handle.
LtdStatus ltd_sequence_open(uint64_t policy,
                            const uint32_t *prompt,
                            size_t prompt_length,
                            uint32_t root,
                            uint64_t *sequence);

// Closes a sequence.
LtdStatus ltd_sequence_close(uint64_t sequence);

// Begins a cycle: what it drafts from. A cycle that was not committed is forgotten.
//
// # Safety
// `source` points to room for it.
LtdStatus ltd_sequence_begin(uint64_t sequence, LtdSource *source);

// Begins a cycle that copies so many tokens, whatever the policy thinks of it.
LtdStatus ltd_sequence_begin_copy(uint64_t sequence, size_t chain);

// Adds a level: log-probs and tokens of the W best continuations of each node of the frontier,
// best first, `rows` times W of each; first those of the root, one row. A program that expands the
// whole beam passes as many of its rows as `ltd_sequence_frontier` has.
//
// # Safety
// `log_probs` and `tokens` point to `rows` times W numbers each.
LtdStatus ltd_sequence_push_level(uint64_t sequence,
                                  const float *log_probs,
                                  const uint32_t *tokens,
                                  size_t rows);

// The nodes that the next level expands: their tokens, and for each the row of the level before
// that proposed it. Before there is a tree it is the root alone. An array that is null is left
// out; `count` says how many there are, also where there is too little room.
//
// # Safety
// `tokens` and `parents` are null or point to room for `capacity` numbers, `count` to room for
// one.
LtdStatus ltd_sequence_frontier(uint64_t sequence,
                                uint32_t *tokens,
                                uint32_t *parents,
                                size_t capacity,
                                size_t *count);

// Whether to add one more level. To be asked after each.
//
// # Safety
// `more` points to room for it.
LtdStatus ltd_sequence_continue(uint64_t sequence, bool *more);

// How many candidates the target verifies.
//
// # Safety
// `size` points to room for it.
LtdStatus ltd_sequence_size(uint64_t sequence, size_t *size);

// The tree of tokens that the target verifies: tokens of its rows, root first, the row of each
// one's parent, -1 for the root, and its depth, root 0. It has at most `at_most` rows beside the
// root; asked again in a cycle, it is made anew. An array that is null is left out; `rows` says
// how many there are, also where there is too little room.
//
// # Safety
// `tokens`, `parents` and `depths` are null or point to room for `capacity` numbers, `rows` to
// room for one.
LtdStatus ltd_sequence_verification(uint64_t sequence,
                                    size_t at_most,
                                    uint32_t *tokens,
                                    int32_t *parents,
                                    uint32_t *depths,
                                    size_t capacity,
                                    size_t *rows);

// Ends the cycle: the draft tokens that the target accepted, and its own token after them. Without
// a cycle it was a step of plain decoding.
//
// # Safety
// `accepted` points to `accepted_length` tokens.
LtdStatus ltd_sequence_commit(uint64_t sequence,
                              const uint32_t *accepted,
                              size_t accepted_length,
                              uint32_t next);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LTD_POLICY_H */
