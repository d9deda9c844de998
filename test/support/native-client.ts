/** The documented routes as a browser would call them. */
export function nativeClient(url: string, headers: Record<string, string> = {}) {
  const post = (path: string, body: unknown) =>
    answer(
      fetch(`${url}${path}`, {
        method: 'POST',
        headers: { ...headers, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      }),
    )
  return {
    init: (body: unknown) => post('/upload/init', body),
    complete: (uploadId: unknown) => post('/upload/complete', { uploadId }),
    progress: (uploadId: string) => answer(fetch(`${url}/upload/progress/${uploadId}`, { headers })),
    abort: (uploadId: string) => answer(fetch(`${url}/upload/${uploadId}`, { method: 'DELETE', headers })),
    /** As a form; `order` puts the file part after or before the fields. */
    chunk: (
      uploadId: string,
      index: number | string,
      data: Buffer,
      order: 'fields first' | 'file first' = 'fields first',
      more = {},
    ) => {
      const form = new FormData()
      const file = () => form.append('chunk', new Blob([new Uint8Array(data)]), 'blob')
      if (order === 'file first') file()
      for (const [name, value] of Object.entries({ uploadId, chunkIndex: String(index), ...more }))
        form.append(name, String(value))
      if (order === 'fields first') file()
      return answer(fetch(`${url}/upload/chunk`, { method: 'POST', body: form, headers }))
    },
    raw: (uploadId: string, index: number | string, data: Buffer) =>
      answer(
        fetch(`${url}/upload/chunk?uploadId=${uploadId}&chunkIndex=${index}`, {
          method: 'POST',
          body: new Uint8Array(data),
          headers: { ...headers, 'Content-Type': 'application/octet-stream' },
        }),
      ),
    /** Init without the ceremony. */
    async start(totalSize: number, more: object = {}): Promise<string> {
      const { body } = await post('/upload/init', {
        fileName: 'large-video.mp4',
        totalSize,
        mimeType: 'video/mp4',
        ...more,
      })
      return body.uploadId
    },
  }
}

export interface Answer {
  status: number
  headers: Headers
  text: string
  // biome-ignore lint/suspicious/noExplicitAny: what a test expects of a body is its assertion's business
  body: any
}

export async function answer(fetched: Promise<Response>): Promise<Answer> {
  const response = await fetched
  const text = await response.text()
  let body: unknown = null
  try {
    body = JSON.parse(text)
  } catch {
    // Not every answer has a JSON body.
  }
  return { status: response.status, headers: response.headers, text, body }
}
