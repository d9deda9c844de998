/** Sorted, merged, inclusive number ranges. Pure. */
import type { Span } from '../types.ts'

export function addToSpans(spans: readonly Span[], value: number): Span[] {
  const result: Span[] = []
  let first = value
  let last = value
  for (const span of spans) {
    if (span[1] + 1 < first) result.push(span)
    else if (last + 1 < span[0]) {
      result.push([first, last])
      first = span[0]
      last = span[1]
    } else {
      first = Math.min(first, span[0])
      last = Math.max(last, span[1])
    }
  }
  result.push([first, last])
  return result
}

export function spansInclude(spans: readonly Span[], value: number): boolean {
  return spans.some(([first, last]) => first <= value && value <= last)
}

export function countSpans(spans: readonly Span[]): number {
  return spans.reduce((sum, [first, last]) => sum + last - first + 1, 0)
}

/** What is absent between 0 and `end` (exclusive). */
export function gapsBelow(spans: readonly Span[], end: number): Span[] {
  const gaps: Span[] = []
  let next = 0
  for (const [first, last] of spans) {
    if (first >= end) break
    if (first > next) gaps.push([next, first - 1])
    next = last + 1
  }
  if (next < end) gaps.push([next, end - 1])
  return gaps
}
