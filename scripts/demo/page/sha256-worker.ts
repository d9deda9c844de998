/** A file in, its SHA-256 out; beside the page, which would stand still meanwhile. */
import { Sha256 } from './sha256.ts'

addEventListener('message', async (event: MessageEvent<File>) => {
  try {
    const hash = new Sha256()
    const reader = event.data.stream().getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      hash.update(value)
    }
    postMessage({ sha256: hash.digest() })
  } catch {
    postMessage({ error: 'The file cannot be read any more: it was moved or changed.' })
  }
})
