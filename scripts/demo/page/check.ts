/** Whether the file that is stored is the file that was sent: both are read again from the start. */

export interface Check {
  /** SHA-256, hexadecimal. */
  readonly here: string
  readonly stored: string
}

/** @throws Error with a message for the person when one of the two cannot be read */
export async function checkStored(file: File, url: string): Promise<Check> {
  const [here, stored] = await Promise.all([hashHere(file), hashStored(url)])
  return { here, stored }
}

function hashHere(file: File): Promise<string> {
  const worker = new Worker('/assets/sha256-worker.js', { type: 'module' })
  const answer = new Promise<string>((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.sha256 ? resolve(data.sha256) : reject(new Error(data.error)))
    worker.onerror = () => reject(new Error('The browser could not compute the checksum.'))
  })
  worker.postMessage(file)
  return answer.finally(() => worker.terminate())
}

async function hashStored(url: string): Promise<string> {
  const response = await fetch(`/demo/sha256?${new URLSearchParams({ url })}`)
  if (!response.ok) throw new Error('The stored file could not be read.')
  return (await response.json()).sha256
}
