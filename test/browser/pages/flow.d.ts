/** As much of Flow.js as the page uses: it comes without types. */
declare module '@flowjs/flow.js' {
  interface FlowFile {
    readonly chunks: readonly { message(): string }[]
    progress(): number
  }
  export default class Flow {
    constructor(options: { target: string; chunkRetryInterval?: number; maxChunkRetries?: number })
    on(event: 'fileAdded' | 'fileProgress' | 'fileSuccess', listener: (file: FlowFile) => void): void
    on(event: 'fileError', listener: (file: FlowFile, message: string) => void): void
    addFile(file: File): void
    upload(): void
  }
}
