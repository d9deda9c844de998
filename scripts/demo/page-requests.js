/** The routes as the page calls them. A failure is either a refusal with the server's own words, or no answer at all. */
const requestTimeout = 60_000
/** No byte moved for so long: the connection is dead even if nobody says so. */
const stallTimeout = 30_000

class RefusedError extends Error {
  constructor(status, body, retryAfter) {
    super(body?.message ?? `The server answered ${status}.`)
    this.status = status
    this.code = body?.code
    this.retryAfter = Number(retryAfter) || 0
  }

  get passes() {
    return this.status >= 500 || [408, 423, 429].includes(this.status) || this.code === 'UPLOAD_INCOMPLETE'
  }

  get isGone() {
    return this.status === 404 || this.status === 410
  }
}

/** No answer came. */
class ConnectionError extends Error {
  passes = true

  constructor() {
    super('The connection to the server was lost.')
  }
}

/** Progress of an upload by its id. Throws an error with `isGone` when the server does not know it any more. */
export function progressOf(uploadId, signal) {
  return requestJson('GET', `/upload/progress/${encodeURIComponent(uploadId)}`, undefined, signal)
}

/** Tells the server that nobody will finish it. If that fails, the server removes it by itself some time later. */
export async function abandon(uploadId) {
  await fetch(`/upload/${encodeURIComponent(uploadId)}`, { method: 'DELETE' }).catch(() => {})
}

export async function requestJson(method, path, body, signal) {
  let response
  let answer
  try {
    response = await fetch(path, {
      method,
      signal: AbortSignal.any([signal ?? new AbortController().signal, AbortSignal.timeout(requestTimeout)]),
      ...(body && { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }),
    })
    answer = await response.text()
  } catch {
    throw new ConnectionError()
  }
  if (!response.ok) throw new RefusedError(response.status, parse(answer), response.headers.get('Retry-After'))
  return parse(answer)
}

/** XMLHttpRequest, since fetch does not tell how much of a body has been sent. */
export function sendChunk(uploadId, index, chunk, signal, onProgress) {
  const form = new FormData()
  form.append('uploadId', uploadId)
  form.append('chunkIndex', String(index))
  form.append('chunk', chunk, 'chunk')
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    const abort = () => request.abort()
    let stalled
    const watch = () => {
      clearTimeout(stalled)
      stalled = setTimeout(abort, stallTimeout)
    }
    request.upload.onprogress = (event) => {
      watch()
      onProgress(Math.min(event.loaded, chunk.size))
    }
    request.onloadend = () => {
      clearTimeout(stalled)
      signal.removeEventListener('abort', abort)
      if (request.status === 200) resolve()
      else if (request.status === 0) reject(new ConnectionError())
      else
        reject(new RefusedError(request.status, parse(request.responseText), request.getResponseHeader('Retry-After')))
    }
    signal.addEventListener('abort', abort)
    request.open('POST', '/upload/chunk')
    watch()
    request.send(form)
  })
}

function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
