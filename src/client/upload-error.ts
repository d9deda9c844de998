/** Why an upload failed, in the server's words where it had any. */
export class UploadError extends Error {
  /** Stable: the server's code, `HTTP_<status>` when it gave none, or one of the client's own. */
  readonly code: string = ''
  /** Of the answer; 0 when there was none. */
  readonly status: number = 0
  /** Whether trying again later can help. */
  readonly retryable: boolean = false
  /** How long the server wants to be left alone, ms. */
  readonly retryAfter: number = 0
  /** All of the server's answer: `limit`, `allowed`, `missing`, … */
  readonly details: Readonly<Record<string, unknown>> = {}

  constructor(
    message: string,
    properties: { code: string; cause?: unknown } & Partial<Omit<UploadError, keyof Error>>,
  ) {
    super(message)
    this.name = 'UploadError'
    Object.assign(this, properties)
  }
}
