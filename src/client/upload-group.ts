import { createListeners } from './listeners.ts'
import type { GroupProgress, Upload, UploadGroup, UploadGroupOptions, UploadState } from './types.ts'
import { createUpload } from './upload.ts'

/**
 * Several files, a few at a time, with one progress.
 * @param create makes the uploads; the entry for Node brings its own
 */
export function createUploadGroup(
  { parallelFiles = 2, onProgress, ...common }: UploadGroupOptions = {},
  create: typeof createUpload = createUpload,
): UploadGroup {
  const uploads: Upload[] = []
  const { subscribe, tell } = createListeners(onProgress)
  let isPaused = false

  const inState = (...states: UploadState[]) => uploads.filter(({ progress }) => states.includes(progress.state))

  function progress(): GroupProgress {
    const sum = { sentBytes: 0, totalBytes: 0, speed: 0 }
    for (const { progress } of uploads) {
      if (progress.state === 'aborted') continue
      for (const key of ['sentBytes', 'totalBytes', 'speed'] as const) sum[key] += progress[key]
    }
    const { sentBytes, totalBytes, speed } = sum
    return {
      ...sum,
      secondsLeft: speed > 0 ? (totalBytes - sentBytes) / speed : null,
      files: uploads.length,
      completed: inState('completed').length,
      failed: inState('failed').length,
    }
  }

  function changed(): void {
    const room = parallelFiles - inState('uploading', 'waiting', 'completing').length
    const next = inState('idle')[0]
    // Starting it is a change as well. How it ends is in its progress.
    if (room > 0 && next && !isPaused) next.start().catch(() => {})
    tell(progress())
  }

  return {
    uploads,
    subscribe,
    get progress() {
      return progress()
    },
    add(source, options) {
      const upload = create(source, { ...common, ...options })
      uploads.push(upload)
      upload.subscribe(changed)
      changed()
      return upload
    },
    async done() {
      while (inState('completed', 'failed', 'aborted').length < uploads.length) {
        let unsubscribe = () => {}
        await new Promise<unknown>((resolve) => {
          unsubscribe = subscribe(resolve)
        })
        unsubscribe()
      }
      return uploads
    },
    pause() {
      isPaused = true
      for (const upload of uploads) upload.pause()
    },
    resume() {
      isPaused = false
      for (const upload of uploads) upload.resume()
      changed()
    },
    async abort() {
      const open = uploads.filter(({ progress }) => progress.state !== 'completed')
      await Promise.all(open.map((upload) => upload.abort()))
    },
  }
}
