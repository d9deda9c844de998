/** What the clients' processes are told and tell. */

export interface Task {
  readonly origin: string
  /** Of the file. */
  readonly path: string
  readonly name: string
  /** Who the client is for the server. */
  readonly cookie: string
  /** For what it has to write. */
  readonly folder: string
}

export type Report =
  /** How much of the file the client has sent, 0 to 1; less than before when a part is sent again. */
  | { readonly kind: 'progress'; readonly share: number }
  | { readonly kind: 'done'; readonly url: string }
  | { readonly kind: 'failed'; readonly message: string }

export const task = JSON.parse(process.argv[2] ?? '{}') as Task

export function report(message: Report): void {
  process.send?.(message)
}

/** Runs the upload, and tells how it ended. */
export async function run(upload: () => Promise<string>): Promise<void> {
  if (!process.send) throw new Error('This is a part of the demo: npm run demo:cluster')
  process.once('disconnect', () => process.exit())
  try {
    report({ kind: 'done', url: await upload() })
  } catch (error) {
    report({ kind: 'failed', message: error instanceof Error ? error.message : String(error) })
  }
  process.disconnect()
}
