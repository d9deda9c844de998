/** What the upload server says: JSON. */

/** Of an error; `null` when the text is something else. */
export function messageIn(text: string): string | null {
  const { message } = parse(text)
  return typeof message === 'string' ? message : null
}

/** Of an answer that was made when the whole file was there; empty in all others. */
export function urlIn(text: string): string {
  const { url } = parse(text)
  return typeof url === 'string' ? url : ''
}

function parse(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) ?? {}
  } catch {
    return {}
  }
}
