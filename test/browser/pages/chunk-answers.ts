/** What the server said to the chunks of a file: JSON each time. */

/** The answers that were made when the file was whole have its URL; which of them comes last is chance. */
export function urlOf(answers: readonly string[]): string {
  return answers.map((answer) => String(parse(answer).url ?? '')).find((url) => url !== '') ?? ''
}

export function messageOf(answer: string): string {
  return String(parse(answer).message ?? answer)
}

function parse(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}
