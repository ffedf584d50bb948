// Steers a made-up engine by a package: steer PACKAGE [CYCLES]. A line for each cycle tells what was
// decided: source, chain, draft depth (-1 without a tree), size, and the tokens that are verified.
//
//   cc steer.c $(pkg-config --cflags --libs ltdpolicy) -o steer

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "ltd_policy.h"

enum { MOST_ROWS = 1024, WIDEST = 64 };

static void check(LtdStatus status) {
  if (status != LTD_STATUS_OK) {
    fprintf(stderr, "steer: %s\n", ltd_last_error());
    exit(status == LTD_STATUS_PACKAGE || status == LTD_STATUS_ARGUMENT ? 2 : 1);
  }
}

// Numbers that look random.
static uint32_t state = 97;
static uint32_t number_below(uint32_t limit) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % limit;
}

// What a draft model would say: log-probs and tokens of the best continuations of each row.
static void draft(size_t rows, size_t width, float *log_probs, uint32_t *tokens) {
  for (size_t row = 0; row < rows; row++) {
    float log_prob = 0.0f;
    for (size_t column = 0; column < width; column++) {
      log_prob -= (float)number_below(1000) / 500.0f;
      log_probs[row * width + column] = log_prob;
      tokens[row * width + column] = 100 + (uint32_t)column;
    }
  }
}

int main(int count, char **arguments) {
  if (count < 2) {
    fprintf(stderr, "usage: steer PACKAGE [CYCLES]\n");
    return 2;
  }
  int cycles = count > 2 ? atoi(arguments[2]) : 20;
  if (ltd_abi_version() != LTD_POLICY_ABI) {
    fprintf(stderr, "steer: libltdpolicy has version %u of its interface, expected %u\n",
            (unsigned)ltd_abi_version(), (unsigned)LTD_POLICY_ABI);
    return 1;
  }

  uint64_t policy, sequence;
  LtdInfo info;
  check(ltd_policy_open(arguments[1], &policy));
  check(ltd_policy_info(policy, &info));
  if (info.beam_width > WIDEST) {
    fprintf(stderr, "steer: a beam of %zu is too wide for this example\n", info.beam_width);
    return 1;
  }
  uint32_t prompt[30];
  for (size_t place = 0; place < 30; place++) prompt[place] = (uint32_t)place % 7;
  check(ltd_sequence_open(policy, prompt, 30, 2, &sequence));

  static float log_probs[WIDEST * WIDEST];
  static uint32_t proposed[WIDEST * WIDEST];
  uint32_t tokens[MOST_ROWS], accepted[MOST_ROWS];
  int32_t parents[MOST_ROWS];
  for (int cycle = 0; cycle < cycles; cycle++) {
    LtdSource source;
    int depth = -1;
    check(ltd_sequence_begin(sequence, &source));
    if (source.kind != LTD_SOURCE_KIND_COPY) {
      bool more = true;
      while (more) {
        size_t rows;
        check(ltd_sequence_frontier(sequence, NULL, NULL, 0, &rows));
        if (depth < 0) rows = 1;
        draft(rows, info.beam_width, log_probs, proposed);
        check(ltd_sequence_push_level(sequence, log_probs, proposed, rows));
        check(ltd_sequence_continue(sequence, &more));
        depth++;
      }
    }
    size_t size, rows;
    check(ltd_sequence_size(sequence, &size));
    check(ltd_sequence_verification(sequence, MOST_ROWS - 1, tokens, parents, NULL, MOST_ROWS, &rows));
    printf("%d %zu %d %zu:", source.kind, source.chain, depth, size);
    for (size_t row = 0; row < rows; row++) printf(" %u", (unsigned)tokens[row]);
    printf("\n");

    // What the target would accept: some first children, one below another.
    size_t wanted = number_below(4), taken = 0;
    int32_t at = 0;
    for (size_t row = 1; row < rows && taken < wanted; row++) {
      if (parents[row] == at) {
        accepted[taken++] = tokens[row];
        at = (int32_t)row;
      }
    }
    check(ltd_sequence_commit(sequence, accepted, taken, number_below(5)));
  }

  check(ltd_sequence_close(sequence));
  check(ltd_policy_close(policy));
  // A handle that was closed is an error, and no more than that.
  if (ltd_sequence_commit(sequence, NULL, 0, 1) != LTD_STATUS_HANDLE) return 1;
  return 0;
}
